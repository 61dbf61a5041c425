"""How the elements of a gradient are spread, in the graph.

Only where it is asked for: it reads each gradient three times more.
"""

import tensorflow as tf

from keras_gradguard.backend.tensorflow.capture.statistics import real
from keras_gradguard.backend.tensorflow.internals.graphs import guard_variables

# As many as TensorBoard shows.
BINS = 30


class Histogram:
    """Keeps the histograms of one optimizer's last recorded step.

    Args:
        number: How many variables it trains.
    """

    def __init__(self, number):
        with guard_variables():
            empty = tf.zeros([number, BINS + 2])
            self._found = tf.Variable(empty, trainable=False)

    def reset(self):
        """Makes all as it was before the first step."""
        self._found.assign(tf.zeros(self._found.shape))

    def store(self, gradients, loss_scale):
        """Adds the ops that count the elements.

        Args:
            gradients: The gradients as `optimizer.apply` gets them.
            loss_scale: Scalar float32 tensor that they are multiplied with.
        """
        rows = [histogram(gradient, loss_scale) for gradient in gradients]
        self._found.assign(tf.stack(rows))

    def read(self):
        """Returns the rows of `histogram`, float32 `[variables, BINS + 2]`."""
        return self._found.numpy()


def histogram(gradient, loss_scale):
    """Counts the elements of a gradient in bins of the same width.

    Of `tf.IndexedSlices` the rows that are there are counted, those of the
    same index added up; elements that are NaN or Inf are not.

    Args:
        gradient: A float tensor, `tf.IndexedSlices` or `None`.
        loss_scale: Scalar float32 tensor the loss was multiplied with.

    Returns:
        A float32 tensor `[BINS + 2]`: the least and the largest element,
        unscaled, and the number of elements in each bin between; zeros for
        a gradient without a finite element.
    """
    if gradient is None:
        return tf.zeros([BINS + 2])
    values = tf.cast(tf.reshape(real(gradient), [-1]), tf.float32) / loss_scale
    is_finite = tf.math.is_finite(values)
    limit = tf.float32.max
    low = tf.reduce_min(tf.where(is_finite, values, limit))
    high = tf.reduce_max(tf.where(is_finite, values, -limit))
    # Half of both: the width may leave the range of float32.
    width = high / 2 - low / 2
    place = tf.math.divide_no_nan(values / 2 - low / 2, width) * BINS
    bins = tf.clip_by_value(place, 0.0, BINS - 1.0)
    bins = tf.cast(tf.where(is_finite, bins, 0.0), tf.int32)
    counts = tf.math.unsorted_segment_sum(
        tf.cast(is_finite, tf.float32), bins, BINS
    )
    is_any = tf.reduce_any(is_finite)
    ends = tf.where(is_any, tf.stack([low, high]), tf.zeros([2]))
    return tf.concat([ends, counts], axis=0)
