"""GG105: a rounded value."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import op


def _remedies(name, *types):
    """The two ways out for one function, which may be of several ops."""
    return (
        Remedy(
            text="leave the value unrounded",
            before=f"level = ops.{name}(y_pred)",
            after="level = y_pred",
            when=op(*types),
        ),
        Remedy(
            text="keep the rounded value, with a straight-through gradient",
            before=f"level = ops.{name}(y_pred)",
            after=(
                f"level = y_pred + ops.stop_gradient(ops.{name}(y_pred) - "
                "y_pred)"
            ),
            when=op(*types),
        ),
    )


RULE = Rule(
    code="GG105",
    name="rounding",
    kind="disconnected",
    ops=("Round", "Rint", "Floor", "Ceil", "FloorDiv", "TruncateDiv"),
    message="`{op}` is piecewise constant: no gradient",
    why=(
        "The derivative of a piecewise constant function is zero wherever it "
        "is defined, so TensorFlow returns no gradient (`None`)."
    ),
    help=(
        *_remedies("round", "Round", "Rint"),
        *_remedies("floor", "Floor"),
        *_remedies("ceil", "Ceil"),
        Remedy(
            text="use a true division",
            before="level = y_pred // 0.5",
            after="level = y_pred / 0.5",
            when=op("FloorDiv", "TruncateDiv"),
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
