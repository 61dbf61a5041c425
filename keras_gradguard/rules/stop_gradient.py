"""GG106: a gradient stopped on purpose, in the wrong place."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG106",
    name="stop-gradient",
    kind="disconnected",
    ops=("StopGradient", "PreventGradient"),
    message="`{op}` lets no gradient through",
    why=(
        "It makes its input a constant for training. That is meant for "
        "targets, not for what the model has to learn."
    ),
    help=(
        Remedy(
            text="stop the gradient of the target only",
            before="error = y_true - tf.stop_gradient(y_pred)",
            after="error = tf.stop_gradient(y_true) - y_pred",
        ),
    ),
    bad="""\
import tensorflow as tf


def loss(y_true, y_pred):
    error = y_true - tf.stop_gradient(y_pred)  # [stop-gradient]
    return tf.reduce_mean(tf.square(error))
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    error = tf.stop_gradient(y_true) - y_pred
    return tf.reduce_mean(tf.square(error))
""",
)
