"""GG223: the logarithm of zero or of less."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import tensorflow as tf


def loss(y_true, y_pred):
    share = tf.nn.softmax(y_pred)
    gain = y_true * tf.math.log(y_true / share)  # [logarithm]
    return tf.reduce_mean(tf.reduce_sum(gain, axis=-1))
"""

RULE = Rule(
    code="GG223",
    name="logarithm",
    kind="nonfinite",
    ops=("Log", "Log1p", "Xlogy", "Xlog1py"),
    message="`{op}` gets a number that has no finite logarithm",
    why=(
        "The logarithm of 0 is -Inf and that of a negative number is NaN. "
        "Its slope, 1/x, is infinite at 0 as well."
    ),
    help=(
        Remedy(
            text="let one op do the softmax and the logarithm",
            before="score = tf.math.log(tf.nn.softmax(y_pred))",
            after="score = tf.nn.log_softmax(y_pred)",
        ),
        Remedy(
            text="or keep the argument above zero",
            before="score = tf.math.log(share)",
            after="score = tf.math.log(tf.maximum(share, 1e-7))",
        ),
    ),
    bad=_BAD,
    good=_BAD.replace(
        "tf.math.log(y_true / share)  # [logarithm]",
        "tf.math.log(tf.maximum(y_true / share, 1e-7))",
    ),
)
