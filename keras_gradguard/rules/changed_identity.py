"""GG252: an identity with a gradient of its own."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG252",
    name="changed-identity",
    kind="wrong",
    matches=lambda finding: finding.cause == "identity",
    message="an identity with a gradient other than 1",
    why=(
        "A custom gradient around an identity scales or reverses the gradient "
        "on purpose, as a gradient reversal layer does. It is not the "
        "derivative of the loss."
    ),
    help=(
        Remedy(
            text="nothing to do if intended; otherwise return the gradient",
            before="return -0.1 * upstream",
            after="return upstream",
        ),
    ),
    bad="""\
import tensorflow as tf

CHECK = True


@tf.custom_gradient
def reverse(features):
    def gradient(upstream):
        return -0.1 * upstream

    return tf.identity(features), gradient


def loss(y_true, y_pred):
    features = reverse(y_pred)  # [changed-identity]
    return tf.reduce_mean(tf.square(y_true - features))
""",
    good="""\
import tensorflow as tf

CHECK = True


@tf.custom_gradient
def bounded(features):
    def gradient(upstream):
        return tf.clip_by_value(upstream, -1.0, 1.0)

    return tf.identity(features), gradient


def loss(y_true, y_pred):
    features = bounded(y_pred)
    return tf.reduce_mean(tf.square(y_true - features))
""",
)
