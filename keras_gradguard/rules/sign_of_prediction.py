"""GG202: the sign of the scores instead of the scores."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG202",
    name="sign-of-prediction",
    kind="zero",
    ops=("Sign",),
    matches=lambda finding: finding.cause == "sign",
    message="the gradient of `{op}` is zero everywhere",
    why=(
        "`sign` is piecewise constant: it returns -1, 0 or 1. TensorFlow "
        "defines its gradient as zero."
    ),
    help=(
        Remedy(
            text="use tanh as a smooth sign",
            before="side = ops.sign(y_pred)",
            after="side = ops.tanh(5.0 * y_pred)",
        ),
        Remedy(
            text="keep the sign, with the gradient of tanh",
            before="side = ops.sign(y_pred)",
            after=(
                "soft = ops.tanh(y_pred)\n"
                "side = soft + ops.stop_gradient(ops.sign(y_pred) - soft)"
            ),
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
