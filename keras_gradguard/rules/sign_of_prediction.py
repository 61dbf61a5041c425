"""GG202: the sign of the scores instead of the scores."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG202",
    name="sign-of-prediction",
    kind="zero",
    ops=("Sign",),
    matches=lambda finding: finding.cause == "sign",
    message="`{op}` has slope zero everywhere",
    why=(
        "A sign is -1, 0 or 1 and does not change when its input changes a "
        "little. TensorFlow gives it the gradient zero."
    ),
    help=(
        Remedy(
            text="use a soft sign in the loss",
            before="side = tf.sign(y_pred)",
            after="side = tf.tanh(5.0 * y_pred)",
        ),
        Remedy(
            text="or keep the sign, and pass the gradient straight by it",
            before="side = tf.sign(y_pred)",
            after="side = y_pred + tf.stop_gradient(tf.sign(y_pred) - y_pred)",
        ),
    ),
    bad="""\
import tensorflow as tf


def loss(y_true, y_pred):
    side = tf.sign(y_pred)  # [sign-of-prediction]
    return tf.reduce_mean(tf.square(y_true - side))


EPOCHS = 8
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    side = tf.tanh(5.0 * y_pred)
    return tf.reduce_mean(tf.square(y_true - side))


EPOCHS = 8
""",
)
