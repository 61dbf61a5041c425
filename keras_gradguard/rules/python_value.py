"""GG108: a tensor converted to a Python number."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import line

_ASSIGNMENT = r"\]\s*[-+*/]?=(?!=)"


RULE = Rule(
    code="GG108",
    name="python-value",
    kind="untraceable",
    matches=lambda finding: finding.cause == "python_value",
    message="a tensor is converted to a Python number",
    why=(
        "`.numpy()`, `float()`, `int()` and the `math` module need the value, "
        "which does not exist while the step is compiled. The number that "
        "they return has no gradient."
    ),
    help=(
        Remedy(
            text="use the tensor operation instead of the math function",
            before="return math.log1p(error)",
            after="return ops.log1p(error)",
            when=line(r"\bmath\."),
        ),
        Remedy(
            text="build a new tensor; elements cannot be assigned",
            before="y_pred[:, 0] = 0.0",
            after=(
                "first = ops.zeros_like(y_pred[:, :1])\n"
                "y_pred = ops.concatenate([first, y_pred[:, 1:]], axis=-1)"
            ),
            when=line(_ASSIGNMENT),
        ),
        Remedy(
            text="print the tensor itself with tf.print",
            before="print(float(error))",
            after="tf.print(error)",
            when=line(r"\bprint\("),
        ),
        Remedy(
            text="keep the tensor",
            before="scale = float(ops.max(y_pred))",
            after="scale = ops.max(y_pred)",
            when=line(r"^(?!.*\bprint\().*(float\(|int\(|numpy|item|tolist)"),
        ),
    ),
    bad="""\
import math

import tensorflow as tf


def loss(y_true, y_pred):
    error = tf.reduce_mean(tf.square(y_true - y_pred))
    return math.log1p(error)  # [python-value]
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    error = tf.reduce_mean(tf.square(y_true - y_pred))
    return tf.math.log1p(error)
""",
)
