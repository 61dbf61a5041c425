"""GG108: a tensor read out as a plain Python value."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG108",
    name="python-value",
    kind="untraceable",
    matches=lambda finding: finding.cause == "python_value",
    message="a tensor is read out as a plain Python value",
    why=(
        "`.numpy()`, `float()`, `int()` and the `math` module need the "
        "number itself. It does not exist yet in a compiled step, and "
        "eagerly it has lost its gradient."
    ),
    help=(
        Remedy(
            text="use the TensorFlow function on the tensor itself",
            before="return math.log1p(error)",
            after="return tf.math.log1p(error)",
        ),
        Remedy(
            text="to look at a value, print it and compute on",
            before="print(float(error))",
            after="tf.print(error)",
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
