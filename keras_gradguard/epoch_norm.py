"""Step 2 of 5: the mean of the gradient norms of an epoch, in the graph."""

import tensorflow as tf

from keras_gradguard.diagnosis import internals


class EpochNorm:
    """Sums up the norms of the steps, as Keras does with the loss."""

    def __init__(self):
        with internals.room():
            # The sum of the norms, and how many they are.
            self._state = tf.Variable([0.0, 0.0], trainable=False)

    def begin(self):
        """Starts anew."""
        self._state.assign([0.0, 0.0])

    def add(self, norm, is_left_out=False):
        """Adds the norm of one step; returns the mean so far, a tensor.

        Args:
            norm: Scalar float32 tensor.
            is_left_out: Boolean scalar tensor, or `False`.
        """
        one = tf.where(is_left_out, 0.0, 1.0)
        norm = tf.where(is_left_out, 0.0, norm)
        self._state.assign_add(tf.stack([norm, one]))
        return tf.math.divide_no_nan(self._state[0], self._state[1])

    def mean(self):
        """Returns the mean so far, a tensor, or `None` before any step."""
        if self._state[1] == 0:
            return None
        return self._state[0] / self._state[1]
