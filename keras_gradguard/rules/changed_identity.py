"""GG252: a function that changes nothing but the gradient."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG252",
    name="changed-identity",
    kind="wrong",
    matches=lambda finding: finding.cause == "identity",
    message="values pass unchanged, their gradient does not",
    why=(
        "A custom gradient around an identity has no other purpose than to "
        "turn or scale the gradient, as in a gradient reversal layer. It is "
        "not the slope of the loss."
    ),
    help=(
        Remedy(
            text="nothing is to be done if that is meant; if not, pass it on",
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
