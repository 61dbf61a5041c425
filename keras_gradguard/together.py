"""Step 2 of 5: many small gradients measured as one, in the graph."""

import numpy as np
import tensorflow as tf


class Together:
    """Small gradients behind each other, with few ops for all of them.

    Args:
        values: Real tensors, each flat, at least one.
        sizes: How many elements each of them has, at least one.
    """

    def __init__(self, values, sizes):
        is_double = any(value.dtype == tf.float64 for value in values)
        dtype = tf.float64 if is_double else tf.float32
        values = [v if v.dtype == dtype else tf.cast(v, dtype) for v in values]
        self._whole = tf.abs(tf.concat(values, axis=0))
        groups = np.repeat(np.arange(len(values)), sizes)
        self._groups = tf.constant(groups, tf.int32)

    def sums(self):
        """Returns the largest, the sum and how many are not zero.

        The shape of the float32 tensor is `[gradients, 3]`.
        """
        whole = self._whole
        if whole.dtype != tf.float32:
            whole = tf.cast(whole, tf.float32)
        columns = [
            tf.math.segment_max(whole, self._groups),
            self._sum(whole),
            self._count(tf.not_equal(whole, 0.0)),
        ]
        return tf.stack(columns, axis=1)

    def exact_sums(self, loss_scale):
        """Returns what `statistics` does for those that leave float32.

        Args:
            loss_scale: Scalar float32 tensor the loss was multiplied with.

        Returns:
            A float32 tensor `[gradients, 5]`: the norm, the largest and the
            sum, unscaled, how many are not zero, and how many not finite.
        """
        whole = self._whole
        scale, is_nan = tf.cast(loss_scale, whole.dtype), tf.math.is_nan(whole)
        numbers = tf.where(is_nan, tf.zeros_like(whole), whole)
        largest = tf.math.segment_max(numbers, self._groups)
        is_unit = tf.math.is_finite(largest) & (largest > 0)
        unit = tf.where(is_unit, largest, tf.ones_like(largest))
        parts = whole / tf.gather(unit, self._groups)
        has_nan = self._count(is_nan) > 0
        nan = tf.constant(float("nan"), whole.dtype)
        columns = [
            unit * tf.sqrt(self._sum(tf.square(parts))) / scale,
            tf.where(has_nan, nan, largest) / scale,
            self._sum(parts) * (unit / scale),
            self._count(tf.not_equal(whole, 0.0)),
            self._count(~tf.math.is_finite(whole)),
        ]
        return tf.stack([tf.cast(c, tf.float32) for c in columns], axis=1)

    def _sum(self, values):
        return tf.math.segment_sum(values, self._groups)

    def _count(self, flags):
        return self._sum(tf.cast(flags, tf.float32))
