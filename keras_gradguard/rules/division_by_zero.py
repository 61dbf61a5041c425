"""GG224: a division by zero or by next to nothing."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import tensorflow as tf


def loss(y_true, y_pred):
    error = (y_true - y_pred) / y_true  # [division-by-zero]
    return tf.reduce_mean(tf.abs(error))
"""

RULE = Rule(
    code="GG224",
    name="division-by-zero",
    kind="nonfinite",
    ops=(
        "RealDiv",
        "Div",
        "Reciprocal",
        "Inv",
        "FloorDiv",
        "TruncateDiv",
        "Xdivy",
        "Mod",
        "FloorMod",
        "TruncateMod",
    ),
    message="`{op}` divides by zero or almost zero",
    why=(
        "A number divided by 0 is Inf or NaN, and so is the slope. By a tiny "
        "number the result can become too large for its dtype."
    ),
    help=(
        Remedy(
            text="let a division by zero give zero",
            before="error = gap / y_true",
            after="error = tf.math.divide_no_nan(gap, y_true)",
        ),
        Remedy(
            text="or keep the divisor away from zero",
            before="error = gap / tf.abs(y_true)",
            after="error = gap / tf.maximum(tf.abs(y_true), 0.1)",
        ),
    ),
    bad=_BAD,
    good=_BAD.replace(
        "(y_true - y_pred) / y_true  # [division-by-zero]",
        "tf.math.divide_no_nan(y_true - y_pred, y_true)",
    ),
)
