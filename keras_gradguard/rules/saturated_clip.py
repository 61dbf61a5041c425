"""GG203: a clip that every value is outside of."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import both, calls, either, no, op


def _is_crossentropy(finding):
    # The clip is one that Keras makes of the probabilities.
    return any("crossentropy" in name for name in finding.calls)


_is_clip = either(op("ClipByValue"), calls("clip", "clip_by_value"))


RULE = Rule(
    code="GG203",
    name="saturated-clip",
    kind="zero",
    ops=("ClipByValue", "Minimum", "Maximum", "Relu6"),
    matches=lambda finding: finding.cause == "saturated_clip",
    message="all values are outside the clip: zero gradient",
    why=(
        "Outside its range, a clip, a minimum or a maximum returns a constant "
        "bound, so its derivative is zero there."
    ),
    help=(
        Remedy(
            text="if the predictions are logits, use from_logits=True",
            before="keras.losses.BinaryCrossentropy()",
            after="keras.losses.BinaryCrossentropy(from_logits=True)",
            when=calls("binary_crossentropy"),
        ),
        Remedy(
            text="if the predictions are logits, use from_logits=True",
            when=both(_is_crossentropy, no(calls("binary_crossentropy"))),
        ),
        Remedy(
            text="map the value into the range with a sigmoid",
            before="degrees = ops.clip(y_pred, 36.0, 42.0)",
            after="degrees = 36.0 + 6.0 * ops.sigmoid(y_pred)",
            when=both(_is_clip, no(_is_crossentropy)),
        ),
        Remedy(
            text="keep the clip, and add a penalty for values outside",
            before=(
                "degrees = ops.clip(y_pred, 36.0, 42.0)\n"
                "return ops.mean(ops.square(y_true - degrees))"
            ),
            after=(
                "degrees = ops.clip(y_pred, 36.0, 42.0)\n"
                "outside = ops.mean(ops.square(y_pred - degrees))\n"
                "return ops.mean(ops.square(y_true - degrees)) + outside"
            ),
            when=both(_is_clip, no(_is_crossentropy)),
        ),
        Remedy(
            text="use a softplus instead of the maximum",
            before="level = ops.maximum(y_pred, 5.0)",
            after="level = 5.0 + ops.softplus(y_pred - 5.0)",
            when=both(op("Maximum"), no(_is_clip), no(_is_crossentropy)),
        ),
        Remedy(
            text="use a softplus instead of the minimum",
            before="level = ops.minimum(y_pred, -5.0)",
            after="level = -5.0 - ops.softplus(-5.0 - y_pred)",
            when=both(op("Minimum"), no(_is_clip), no(_is_crossentropy)),
        ),
        Remedy(
            text="use an activation with a gradient for all inputs",
            before='activation="relu6"',
            after='activation="leaky_relu"',
            when=op("Relu6"),
        ),
    ),
    bad="""\
import tensorflow as tf


def targets(y):
    return 36.0 + 6.0 * y


def loss(y_true, y_pred):
    degrees = tf.clip_by_value(y_pred, 36.0, 42.0)  # [saturated-clip]
    return tf.reduce_mean(tf.square(y_true - degrees))


EPOCHS = 8
""",
    good="""\
import tensorflow as tf


def targets(y):
    return 36.0 + 6.0 * y


def loss(y_true, y_pred):
    degrees = 36.0 + 6.0 * tf.sigmoid(y_pred)
    return tf.reduce_mean(tf.square(y_true - degrees))


EPOCHS = 8
""",
)
