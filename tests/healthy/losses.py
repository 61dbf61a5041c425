"""Losses that are seldom seen and differentiable."""

import keras
import tensorflow as tf

from .build import (
    binary,
    compile_with,
    dense,
    integers,
    normal,
    regression,
    segmentation,
)


def focal():
    """The focal loss that Keras brings along."""
    return binary(keras.losses.BinaryFocalCrossentropy())


def focal_with_detached_weight():
    """A focal weight behind stop_gradient, the cross-entropy outside it."""

    def loss(y_true, y_pred):
        """Cross-entropy, weighed by how wrong the model is."""
        agreement = tf.where(y_true > 0.5, y_pred, 1.0 - y_pred)
        weight = tf.stop_gradient((1.0 - agreement) ** 2)
        return -tf.reduce_mean(weight * tf.math.log(agreement + 1e-6))

    return binary(loss)


def huber():
    """A loss by its name."""
    return regression("huber")


def hinge():
    """Labels -1 and 1; satisfied pairs give zeros."""
    model = compile_with(dense(1, "tanh"), keras.losses.Hinge())
    return model, normal(16, 4), integers(2, 16, 1) * 2.0 - 1.0


def label_smoothing():
    """One-hot labels that are not quite 0 and 1."""
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)
    model = compile_with(dense(3, "softmax"), loss)
    return model, normal(16, 4), keras.ops.one_hot(integers(3, 16), 3)


def dice():
    """Soft overlap of two masks, next to a hard overlap as metric."""

    def loss(y_true, y_pred):
        """One minus the soft Dice coefficient."""
        overlap = tf.reduce_sum(y_true * y_pred, axis=(1, 2, 3))
        total = tf.reduce_sum(y_true + y_pred, axis=(1, 2, 3))
        return 1.0 - (2.0 * overlap + 1.0) / (total + 1.0)

    metric = keras.metrics.BinaryIoU(target_class_ids=[1])
    return segmentation(loss, metrics=[metric])


def insensitive_margin():
    """Small errors are masked out by a comparison on the prediction."""

    def loss(y_true, y_pred):
        """Absolute error beyond a margin."""
        error = tf.abs(y_true - y_pred)
        outside = tf.cast(error > 0.1, tf.float32)
        return tf.reduce_mean(outside * (error - 0.1))

    return regression(loss)


def double_precision():
    """A cast of the prediction, from float to float."""

    def loss(y_true, y_pred):
        """Log-cosh in float64, returned in float32."""
        error = tf.cast(y_pred, tf.float64) - tf.cast(y_true, tf.float64)
        value = tf.reduce_mean(tf.math.log(tf.math.cosh(error)))
        return tf.cast(value, tf.float32)

    return regression(loss)


def spectrum():
    """Complex numbers on the way from prediction to loss."""

    def loss(y_true, y_pred):
        """Distance of the two power spectra."""
        error = tf.signal.rfft(y_true) - tf.signal.rfft(y_pred)
        return tf.reduce_mean(tf.abs(error * tf.math.conj(error)))

    return regression(loss, outputs=8)


def earth_mover():
    """The values are sorted, which moves them and keeps their gradient."""

    def loss(y_true, y_pred):
        """One-dimensional Wasserstein distance over the batch."""
        return tf.reduce_mean(
            tf.square(tf.sort(y_true, axis=0) - tf.sort(y_pred, axis=0))
        )

    return regression(loss)


def hardest_examples():
    """Only the largest losses of the batch count (OHEM)."""

    def loss(y_true, y_pred):
        """Mean of the four largest errors."""
        error = tf.reduce_mean(tf.square(y_true - y_pred), axis=-1)
        values, _ = tf.math.top_k(error, k=4)
        return tf.reduce_mean(values)

    return regression(loss)


CASES = (
    focal,
    focal_with_detached_weight,
    huber,
    hinge,
    label_smoothing,
    dice,
    insensitive_margin,
    double_precision,
    spectrum,
    earth_mover,
    hardest_examples,
)
NO_SINGLE_LOSS = ()
