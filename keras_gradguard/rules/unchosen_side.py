"""GG227: an infinite slope on the side that is not chosen."""

from keras_gradguard.rules._rule import Remedy, Rule

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
    message="the side that is not chosen has no finite slope",
    why=(
        "`tf.where` or a mask passes 0 to the side that it does not choose. "
        "Times an infinite slope that 0 becomes NaN."
    ),
    help=(
        Remedy(
            text="make the input safe before the op, then choose",
            before="y = tf.where(x > 0, tf.math.log(x), 0.0)",
            after=(
                "safe = tf.where(x > 0, x, 1.0)\n"
                "y = tf.where(x > 0, tf.math.log(safe), 0.0)"
            ),
        ),
        Remedy(
            text="or use a division that is safe by itself",
            before="mean = tf.where(count > 0, total / count, 0.0)",
            after="mean = tf.math.divide_no_nan(total, count)",
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
