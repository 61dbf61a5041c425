"""GG109: a Python condition on a tensor."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import line

RULE = Rule(
    code="GG109",
    name="tensor-as-bool",
    kind="untraceable",
    matches=lambda finding: finding.cause == "tensor_as_bool",
    message="a Python condition needs the value of a tensor",
    why=(
        "`if`, `while`, `assert`, `and`, `or`, `min` and `max` need a Python "
        "bool, but a tensor has no value while the step is compiled. Keras "
        "does not convert losses with AutoGraph."
    ),
    help=(
        Remedy(
            text="use the tensor operation instead of max or min",
            before="error = max(error, 0.1)",
            after="error = ops.maximum(error, 0.1)",
            when=line(r"\b(max|min)\("),
        ),
        Remedy(
            text="loop a fixed number of times",
            before="while ops.max(error) > 0.1:",
            after="for _ in range(3):",
            when=line(r"\bwhile\b"),
        ),
        Remedy(
            text="check the data before `fit` instead",
            when=line(r"\bassert\b"),
        ),
        Remedy(
            text="use ops.where; make both sides equal at the threshold",
            before="if error > 1.0:\n    error = 2.0 * error",
            after="error = ops.where(error > 1.0, 2.0 * error - 1.0, error)",
            when=line(r"^(?!.*\b(max|min)\()(?!.*\b(while|assert)\b)"),
        ),
    ),
    bad="""\
import tensorflow as tf


def loss(y_true, y_pred):
    error = tf.reduce_mean(tf.square(y_true - y_pred))
    if error > 1.0:  # [tensor-as-bool]
        error = 2.0 * error
    return error
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    error = tf.reduce_mean(tf.square(y_true - y_pred))
    return tf.where(error > 1.0, 2.0 * error - 1.0, error)
""",
)
