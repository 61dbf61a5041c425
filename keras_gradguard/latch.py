"""Step 2 of 5: which step was the first bad one, in the graph."""

import tensorflow as tf

from keras_gradguard.diagnosis import internals

NEVER = -1


class Latch:
    """Keeps the number of the first bad step until it is set anew."""

    def __init__(self):
        with internals.room():
            # Updates before the first bad step, and how many bad steps.
            self._state = tf.Variable([NEVER, 0], False, dtype=tf.int64)

    def mark(self, is_bad, now):
        """Adds the ops that note one step.

        Args:
            is_bad: Boolean scalar tensor.
            now: Int64 scalar tensor, the updates made before this step.
        """
        first, count = tf.unstack(self._state)
        is_first = is_bad & tf.equal(first, NEVER)
        first = tf.where(is_first, now, first)
        count += tf.cast(is_bad, tf.int64)
        self._state.assign(tf.stack([first, count]))

    def is_set(self):
        """Returns a boolean scalar tensor: was there a bad step?"""
        return self._state[0] != NEVER

    def read(self):
        """Returns `(updates before the first bad step or -1, number)`."""
        return self._state.numpy()

    def clear(self):
        """Lets the next bad step be seen as the first one."""
        self._state.assign([NEVER, 0])
