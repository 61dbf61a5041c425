"""Loss functions whose code would catch a careless eye."""

import keras
import numpy as np
import tensorflow as tf

from .build import binary, compile_with, integers, normal, regression


def where_on_targets():
    """Missing targets are marked -1 and left out by tf.where."""

    def loss(y_true, y_pred):
        """Squared error of the known targets."""
        known = y_true > -0.5
        error = tf.where(known, y_true - y_pred, 0.0)
        count = tf.maximum(tf.math.count_nonzero(known, dtype=tf.float32), 1.0)
        return tf.reduce_sum(tf.square(error)) / count

    return regression(loss, outputs=3)


def boolean_mask_on_targets():
    """Missing targets are dropped, so shapes are only known at run time."""

    def loss(y_true, y_pred):
        """Squared error of the known targets."""
        known = y_true > -0.5
        error = tf.boolean_mask(y_true - y_pred, known)
        return tf.reduce_sum(tf.square(error))

    return regression(loss, outputs=3)


def unique_targets():
    """Class frequencies of the batch as weights."""

    def loss(y_true, y_pred):
        """Cross-entropy, each class with the same weight."""
        labels = tf.reshape(y_true, [-1])
        _, place, count = tf.unique_with_counts(labels)
        weight = 1.0 / tf.cast(tf.gather(count, place), tf.float32)
        value = keras.losses.binary_crossentropy(y_true, y_pred)
        return tf.reduce_sum(weight * value) / tf.reduce_sum(weight)

    return binary(loss)


def assert_and_print():
    """Debug code that reads the prediction and throws the answer away."""

    def loss(y_true, y_pred):
        """Squared error, with questions on the way."""
        tf.debugging.assert_all_finite(y_pred, "prediction")
        tf.debugging.assert_greater(tf.reduce_max(tf.abs(y_pred)), 0.0)
        correct = tf.cast(tf.round(y_pred) == tf.round(y_true), tf.float32)
        tf.print("right:", tf.reduce_mean(correct))
        error = tf.debugging.check_numerics(y_true - y_pred, "error")
        return tf.reduce_mean(tf.square(error))

    return regression(loss)


def shape_normalised():
    """The sum over a number that is read off the prediction's shape."""

    def loss(y_true, y_pred):
        """Squared error per row."""
        rows = tf.cast(tf.shape(y_pred)[0], y_pred.dtype)
        return tf.reduce_sum(tf.square(y_true - y_pred)) / rows

    return regression(loss)


def size_and_rank():
    """The prediction's size and rank are integers; the loss is not."""

    def loss(y_true, y_pred):
        """Squared error per number, summed row by row."""
        error = tf.square(y_true - y_pred)
        size = tf.cast(tf.size(y_pred), tf.float32)
        return tf.reduce_sum(error, axis=tf.range(1, tf.rank(y_pred))) / size

    return regression(loss, outputs=3)


def keras_operations():
    """A loss that speaks keras.ops only."""

    def loss(y_true, y_pred):
        """Smooth absolute error."""
        error = keras.ops.subtract(y_true, y_pred)
        return keras.ops.mean(keras.ops.sqrt(keras.ops.square(error) + 1e-3))

    return regression(loss)


@tf.function
def _smooth_error(y_true, y_pred):
    """Root of the squared error, in a graph of its own."""
    return tf.sqrt(tf.square(y_true - y_pred) + 1e-3)


def function_helper():
    """The arithmetic lies in a tf.function of the module."""

    def loss(y_true, y_pred):
        """Mean of what the helper says."""
        return tf.reduce_mean(_smooth_error(y_true, y_pred))

    return regression(loss)


def python_on_targets():
    """A py_function that sees the targets only."""

    def frequency(labels):
        """Weight of each row, from NumPy."""
        share = labels.numpy().mean()
        return np.where(labels.numpy() > 0.5, 1.0 - share, share) + 0.1

    def loss(y_true, y_pred):
        """Cross-entropy with weights that NumPy has counted."""
        weight = tf.py_function(frequency, [y_true], tf.float32)
        weight.set_shape(y_true.shape)
        value = keras.losses.binary_crossentropy(y_true, y_pred)
        return tf.reduce_mean(weight[:, 0] * value)

    return binary(loss)


def numpy_on_targets():
    """NumPy and a Python `if` in an eager loss, on the targets only."""

    def loss(y_true, y_pred):
        """Squared error, or absolute error if a target is far out."""
        if np.max(np.abs(y_true.numpy())) > 2.0:
            return tf.reduce_mean(tf.abs(y_true - y_pred))
        return tf.reduce_mean(tf.square(y_true - y_pred))

    return regression(loss, run_eagerly=True)


def sequence_lengths():
    """Sequences of different length, padded, with tf.sequence_mask."""

    def loss(y_true, y_pred):
        """Squared error before the end; column 0 holds the length."""
        length = tf.cast(y_true[:, 0], tf.int32)
        mask = tf.sequence_mask(length, 6, dtype=tf.float32)
        error = tf.square(y_true[:, 1:] - y_pred) * mask
        return tf.reduce_sum(error, axis=1) / tf.reduce_sum(mask, axis=1)

    model = keras.Sequential(
        [
            keras.Input((6, 2)),
            keras.layers.Conv1D(8, 3, padding="causal", activation="relu"),
            keras.layers.Dense(1),
            keras.layers.Flatten(),
        ]
    )
    y = np.concatenate([integers(6, 16, 1) + 1.0, normal(16, 6)], axis=1)
    return compile_with(model, loss), normal(16, 6, 2), y


CASES = (
    where_on_targets,
    boolean_mask_on_targets,
    unique_targets,
    assert_and_print,
    shape_normalised,
    size_and_rank,
    keras_operations,
    function_helper,
    python_on_targets,
    numpy_on_targets,
    sequence_lengths,
)
NO_SINGLE_LOSS = ()
