"""Step 2 of 5: how far a step moves each variable, in the graph.

A variable of many elements is sampled: a copy of all weights would cost more
than the norms.
"""

import numpy as np
import tensorflow as tf

from keras_gradguard.diagnosis import internals

UNMEASURED = -2.0
_MOST_ELEMENTS = 4096
_MOST_ROWS = 64


class UpdateCapture:
    """Compares weights before and after an update, and with the last one.

    Args:
        variables: The variables of one optimizer.
    """

    def __init__(self, variables):
        self._variables = variables
        self._groups = []
        for number, variable in enumerate(variables):
            self._groups += [number] * _num_sampled(num_elements(variable))
        with internals.room():
            self._last = tf.Variable(
                tf.fill([len(self._groups)], float("nan")), trainable=False
            )
            self._found = tf.Variable(
                tf.fill([len(variables), 2], UNMEASURED), trainable=False
            )

    def before(self, gradients, due):
        """Reads the weights before the update; returns what `after` takes.

        Args:
            gradients: The gradients; of `tf.IndexedSlices` the first rows
                are looked at.
            due: Boolean scalar tensor; whether this step is to be recorded.
        """
        rows = [
            tf.reshape(g.indices, [-1])[:_MOST_ROWS]
            for g in gradients
            if isinstance(g, tf.IndexedSlices)
        ]
        sparse = [
            number
            for number, gradient in enumerate(gradients)
            if isinstance(gradient, tf.IndexedSlices)
        ]
        nothing = np.zeros([len(self._groups)], np.float32)
        sample = internals.rarely(due, self._sample, nothing)
        kept = [
            tf.cond(
                due,
                lambda n=number, r=row: self._rows(n, r),
                lambda n=number, r=row: self._no_rows(n, r),
            )
            for number, row in zip(sparse, rows, strict=True)
        ]
        return due, sample, sparse, rows, kept

    def after(self, known):
        """Measures the update; call it once the update has been made.

        Args:
            known: What `before` returned.
        """
        due, before, sparse, rows, kept = known

        def measure():
            after = self._sample()
            squares = self._sums(tf.square(after - before))
            weights = self._sums(tf.square(before))
            # NaN, at first and where a weight is NaN, counts as moved.
            moved = self._sums(tf.cast(~(after == self._last), tf.float32))
            ratio = tf.math.divide_no_nan(tf.sqrt(squares), tf.sqrt(weights))
            found = tf.stack([ratio, tf.minimum(moved, 1.0)], axis=1)
            for number, row, old in zip(sparse, rows, kept, strict=True):
                change = tf.norm(self._rows(number, row) - old)
                own = tf.math.divide_no_nan(change, tf.norm(old))
                is_moved = tf.cast(change > 0, tf.float32)
                found = tf.tensor_scatter_nd_update(
                    found, [[number]], [tf.stack([own, is_moved])]
                )
            self._found.assign(found)
            self._last.assign(after)
            return tf.constant(0)

        internals.rarely(due, measure, 0)

    def value(self):
        """Returns what `read` returns, as a tensor."""
        return self._found.value()

    def read(self):
        """Returns float32 `[len(variables), 2]`: ratio, and 1 if it moved.

        The ratio is the L2 norm of the last update over that of the weight;
        a weight has moved if it differs from the one at the record before.
        """
        return self._found.numpy()

    def _sample(self):
        return tf.concat([_sampled(v) for v in self._variables], axis=0)

    def _sums(self, values):
        groups = tf.constant(self._groups, tf.int32)
        number = len(self._variables)
        return tf.math.unsorted_segment_sum(values, groups, number)

    def _rows(self, number, rows):
        value = tf.convert_to_tensor(self._variables[number])
        return tf.cast(tf.gather(value, rows), tf.float32)

    def _no_rows(self, number, rows):
        shape = tuple(self._variables[number].shape[1:])
        return tf.zeros([tf.size(rows), *shape], tf.float32)


def num_elements(variable):
    """Returns how many elements a variable has, an int."""
    number = 1
    for length in variable.shape:
        number *= length
    return number


def _stride(size):
    return max(1, -(-size // _MOST_ELEMENTS))


def _num_sampled(size):
    return -(-size // _stride(size))


def _sampled(variable):
    values = tf.reshape(tf.convert_to_tensor(variable), [-1])
    sample = values[:: _stride(num_elements(variable))]
    if sample.dtype.is_complex:
        sample = tf.abs(sample)
    return tf.cast(sample, tf.float32)
