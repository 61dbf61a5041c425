"""GG251: a gradient that is not the derivative."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG251",
    name="wrong-gradient",
    kind="wrong",
    matches=lambda finding: finding.cause == "wrong_gradient",
    message="the gradient differs from finite differences",
    why=(
        "At points where the loss is smooth, automatic differentiation and "
        "finite differences disagree. Training follows a direction that need "
        "not lower the loss."
    ),
    help=(
        Remedy(
            text="return upstream times the derivative for each input",
            before="return 3.0 * upstream * error",
            after="return 2.0 * upstream * error",
        ),
        Remedy(
            text="remove the decorator and let TensorFlow differentiate",
            before=(
                "@ops.custom_gradient\n"
                "def squared(error):\n"
                "    def gradient(upstream):\n"
                "        return 3.0 * upstream * error\n"
                "\n"
                "    return ops.square(error), gradient"
            ),
            after="def squared(error):\n    return ops.square(error)",
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
