"""GG227: an infinite derivative on the side not selected."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import no, op

_is_division = op("RealDiv", "Div", "Xdivy", "DivNoNan", "Reciprocal", "Inv")


_BAD = """\
import tensorflow as tf


def loss(y_true, y_pred):
    error = y_true - y_pred
    error = tf.where(y_true > 0, error / y_true, 0.0)  # [unchosen-side]
    return tf.reduce_mean(tf.square(error))
"""

RULE = Rule(
    code="GG227",
    name="unchosen-side",
    kind="nonfinite",
    matches=lambda finding: finding.cause == "unchosen",
    message="an infinite derivative on the side not selected",
    why=(
        "`where` or a mask passes a gradient of 0 to the side that is not "
        "selected. 0 times an infinite derivative is NaN."
    ),
    help=(
        Remedy(
            text="make the divisor safe before the division",
            before="error = ops.where(y_true > 0, error / y_true, 0.0)",
            after=(
                "safe = ops.where(y_true > 0, y_true, 1.0)\n"
                "error = ops.where(y_true > 0, error / safe, 0.0)"
            ),
            when=_is_division,
        ),
        Remedy(
            text="use divide_no_nan",
            before="error = ops.where(y_true > 0, error / y_true, 0.0)",
            after="error = ops.divide_no_nan(error, y_true)",
            when=_is_division,
        ),
        Remedy(
            text=(
                "make the input safe before the op, then select (double where)"
            ),
            before="part = ops.where(share > 0, share * ops.log(share), 0.0)",
            after=(
                "safe = ops.where(share > 0, share, 1.0)\n"
                "part = ops.where(share > 0, share * ops.log(safe), 0.0)"
            ),
            when=no(_is_division),
        ),
    ),
    bad=_BAD,
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    error = y_true - y_pred
    safe = tf.where(y_true > 0, y_true, 1.0)
    error = tf.where(y_true > 0, error / safe, 0.0)
    return tf.reduce_mean(tf.square(error))
""",
)
