"""GG206: a mask or weight that is zero on the whole batch."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import tensorflow as tf

PADDING = -1.0


def loss(y_true, y_pred):
    mask = tf.cast(tf.equal(y_true, PADDING), tf.float32)
    error = mask * tf.square(y_true - y_pred)  # [zero-factor]
    return tf.reduce_mean(error)


EPOCHS = 8
"""

RULE = Rule(
    code="GG206",
    name="zero-factor",
    kind="zero",
    matches=lambda finding: finding.cause == "zero_factor",
    message="what is to be learned is multiplied by zero",
    why=(
        "A product passes the gradient on times the other factor. If that "
        "is zero throughout, as a mask or a weight can be, nothing is left."
    ),
    help=(
        Remedy(
            text="turn the mask round, if it is the wrong way",
            before="mask = tf.cast(tf.equal(y_true, PADDING), tf.float32)",
            after="mask = tf.cast(tf.not_equal(y_true, PADDING), tf.float32)",
        ),
        Remedy(
            text="or find the batch that it hides completely",
            after="tf.debugging.assert_positive(tf.reduce_sum(mask))",
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("tf.equal", "tf.not_equal").replace(
        "  # [zero-factor]", ""
    ),
)
