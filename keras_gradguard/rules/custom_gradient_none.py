"""GG122: a custom gradient function that returns `None`."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG122",
    name="custom-gradient-none",
    kind="disconnected",
    ops=("IdentityN",),
    matches=lambda finding: (
        finding.cause == "custom_gradient" or finding.op == "IdentityN"
    ),
    message="a custom gradient function returns `None`",
    why=(
        "The gradient function of `tf.custom_gradient` has to return one "
        "gradient for each input; `None` means that there is none."
    ),
    help=(
        Remedy(
            text="return a gradient for each input",
            before="def gradient(upstream):\n    return None",
            after=(
                "def gradient(upstream):\n"
                "    return ops.clip(upstream, -1.0, 1.0)"
            ),
        ),
    ),
    bad="""\
import tensorflow as tf


@tf.custom_gradient
def bounded(scores):
    def gradient(upstream):
        return None  # [custom-gradient-none]

    return tf.identity(scores), gradient


def loss(y_true, y_pred):
    scores = bounded(y_pred)
    return tf.reduce_mean(tf.square(y_true - scores))
""",
    good="""\
import tensorflow as tf


@tf.custom_gradient
def bounded(scores):
    def gradient(upstream):
        return tf.clip_by_value(upstream, -1.0, 1.0)

    return tf.identity(scores), gradient


def loss(y_true, y_pred):
    scores = bounded(y_pred)
    return tf.reduce_mean(tf.square(y_true - scores))
""",
)
