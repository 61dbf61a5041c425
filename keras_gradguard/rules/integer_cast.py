"""GG103: a cast from floating point to an integer or a bool."""

from keras_gradguard.rules._rule import Remedy, Rule


def _is_integer(finding):
    return finding.output_dtype != "bool"


RULE = Rule(
    code="GG103",
    name="integer-cast",
    kind="disconnected",
    ops=("Cast", "QuantizeV2"),
    message="`{op}` to integer or Boolean has no gradient",
    why=(
        "Only floating-point and complex tensors carry a gradient; casting "
        "the result back to float32 does not restore it."
    ),
    help=(
        Remedy(
            text="stay in floating point",
            before='level = ops.cast(y_pred, "int32")',
            after="level = y_pred",
            when=_is_integer,
        ),
        Remedy(
            text="keep the integer value, with a straight-through gradient",
            before='level = ops.cast(y_pred, "int32")',
            after=(
                'whole = ops.cast(ops.cast(y_pred, "int32"), y_pred.dtype)\n'
                "level = y_pred + ops.stop_gradient(whole - y_pred)"
            ),
            when=_is_integer,
        ),
        Remedy(
            text="use a smooth indicator of values other than zero",
            before='used = ops.cast(ops.cast(y_pred, "bool"), "float32")',
            after="used = 1.0 - ops.exp(-ops.square(y_pred))",
            when=lambda finding: finding.output_dtype == "bool",
        ),
    ),
    bad="""\
import tensorflow as tf


def loss(y_true, y_pred):
    level = tf.cast(y_pred, tf.int32)  # [integer-cast]
    return tf.reduce_mean(tf.square(y_true - tf.cast(level, tf.float32)))
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_true - y_pred))
""",
)
