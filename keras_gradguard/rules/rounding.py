"""GG105: a value rounded to whole numbers."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG105",
    name="rounding",
    kind="disconnected",
    ops=("Round", "Rint", "Floor", "Ceil", "FloorDiv", "TruncateDiv"),
    message="`{op}` makes steps, and a step has no slope",
    why=(
        "Between two steps the result does not move at all, so TensorFlow "
        "gives no gradient."
    ),
    help=(
        Remedy(
            text="leave the value as it is; rounding is for metrics",
            before="level = tf.round(y_pred)",
            after="level = y_pred",
        ),
        Remedy(
            text="or round forward and pass the gradient straight by",
            before="level = tf.round(y_pred)",
            after=(
                "level = y_pred + tf.stop_gradient(tf.round(y_pred) - y_pred)"
            ),
        ),
    ),
    bad="""\
import tensorflow as tf


def loss(y_true, y_pred):
    level = tf.round(y_pred)  # [rounding]
    return tf.reduce_mean(tf.square(y_true - level))
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_true - y_pred))
""",
)
