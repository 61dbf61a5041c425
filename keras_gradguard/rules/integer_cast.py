"""GG103: a cast from floating point to an integer or a bool."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG103",
    name="integer-cast",
    kind="disconnected",
    ops=("Cast", "QuantizeV2"),
    message="`{op}` drops the fraction and the gradient",
    why=(
        "Integers move in whole steps, so only floating point tensors carry "
        "a gradient; a cast back to float32 does not restore one."
    ),
    help=(
        Remedy(
            text="stay in floating point",
            before="level = tf.cast(y_pred, tf.int32)",
            after="level = y_pred",
        ),
        Remedy(
            text="or keep the whole number and pass the gradient straight by",
            before="level = tf.cast(y_pred, tf.int32)",
            after=(
                "whole = tf.cast(tf.cast(y_pred, tf.int32), tf.float32)\n"
                "level = y_pred + tf.stop_gradient(whole - y_pred)"
            ),
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
