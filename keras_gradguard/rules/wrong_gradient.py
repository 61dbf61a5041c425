"""GG251: a gradient that is not the slope of its values."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG251",
    name="wrong-gradient",
    kind="wrong",
    matches=lambda finding: finding.cause == "wrong_gradient",
    message="the gradient is not the slope of the values",
    why=(
        "Finite differences show another slope than automatic "
        "differentiation gives, at points where the values are smooth. "
        "Training then walks in a direction that does not lower the loss."
    ),
    help=(
        Remedy(
            text="return upstream times the derivative for each input",
            before="return 3.0 * upstream * error",
            after="return 2.0 * upstream * error",
        ),
        Remedy(
            text="or leave the gradient to TensorFlow, without the decorator",
            before="@tf.custom_gradient\ndef squared(error):",
            after="def squared(error):",
        ),
    ),
    bad="""\
import tensorflow as tf

CHECK = True


@tf.custom_gradient
def squared(error):
    def gradient(upstream):
        return 3.0 * upstream * error

    return tf.square(error), gradient


def loss(y_true, y_pred):
    return tf.reduce_mean(squared(y_true - y_pred))  # [wrong-gradient]
""",
    good="""\
import tensorflow as tf

CHECK = True


@tf.custom_gradient
def squared(error):
    def gradient(upstream):
        return 2.0 * upstream * error

    return tf.square(error), gradient


def loss(y_true, y_pred):
    return tf.reduce_mean(squared(y_true - y_pred))
""",
)
