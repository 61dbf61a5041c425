"""How far an update moves each weight, in the graph.

A variable of many elements is sampled: a copy of all weights would cost more
than the norms.
"""

import numpy as np
import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.graphs import guard_variables
from keras_gradguard.backend.tensorflow.internals.variables import (
    num_elements,
    read,
)
from keras_gradguard.records.norms import UNMEASURED

# The columns of what is found, in this order.
MOVEMENT_COLUMNS = ("ratio", "has_moved")
_MOST_ELEMENTS = 4096
_MOST_ROWS = 64
_NO_ROW = -1


class Movement:
    """Compares weights before and after an update, and with the last one.

    Args:
        variables: The variables of one optimizer.
        is_xla: Whether XLA may compile its steps.
    """

    def __init__(self, variables, is_xla):
        self._variables = variables
        self._is_xla = is_xla
        sampled = [_num_sampled(num_elements(v)) for v in variables]
        self._groups = np.repeat(np.arange(len(sampled)), sampled)
        self._buffers, self._sparse = {}, ()
        is_double = any(tf.as_dtype(v.dtype) == tf.float64 for v in variables)
        self._dtype = tf.float64 if is_double else tf.float32
        with guard_variables():
            unknown = tf.cast(
                tf.fill([len(self._groups)], float("nan")), self._dtype
            )
            self._before = tf.Variable(unknown, trainable=False)
            self._last = tf.Variable(unknown, trainable=False)
            self._found = tf.Variable(
                tf.fill([len(variables), len(MOVEMENT_COLUMNS)], UNMEASURED),
                trainable=False,
            )

    def reset(self):
        """Makes all as it was before the first step."""
        unknown = tf.fill(self._before.shape, float("nan"))
        unknown = tf.cast(unknown, self._dtype)
        self._before.assign(unknown)
        self._last.assign(unknown)
        self._found.assign(tf.fill(self._found.shape, UNMEASURED))
        for rows, old, last_rows, last in self._buffers.values():
            for kept, values in ((rows, old), (last_rows, last)):
                kept.assign(tf.fill(kept.shape, _NO_ROW))
                values.assign(tf.zeros(values.shape, values.dtype))

    def before(self, gradients):
        """Keeps the weights before an update that is to be recorded.

        Args:
            gradients: The gradients; of `tf.IndexedSlices` the largest rows
                are looked at: those of padding get zeros.
        """
        self._before.assign(self._sample())
        self._sparse = [
            number
            for number, gradient in enumerate(gradients)
            if isinstance(gradient, tf.IndexedSlices)
        ]
        for number in self._sparse:
            rank = len(self._variables[number].shape)
            rows = _largest_rows(gradients[number], rank)
            kept, old, *_ = self._buffers_of(number)
            kept.assign(rows)
            old.assign(self._rows(number, rows))

    def after(self):
        """Measures an update that is to be recorded, once it is made."""
        before, after = self._before.value(), self._sample()
        groups = tf.constant(self._groups, tf.int32)
        squares = self._sums(tf.square(after - before), groups)
        weights = self._sums(tf.square(before), groups)
        # NaN, at first and where a weight is NaN, counts as moved.
        is_moved = tf.cast(~(after == self._last), self._dtype)
        moved = self._sums(is_moved, groups)
        ratio = tf.math.divide_no_nan(tf.sqrt(squares), tf.sqrt(weights))
        found = tf.stack([ratio, tf.minimum(moved, 1.0)], axis=1)
        found = tf.cast(found, tf.float32)
        for number in self._sparse:
            rows, old, last_rows, last = self._buffers_of(number)
            new = self._rows(number, rows)
            change = tf.norm(new - old)
            own = tf.math.divide_no_nan(change, tf.norm(old))
            # An optimizer that accumulates gradients moves them later.
            since = tf.norm(self._rows(number, last_rows) - last)
            is_moved = tf.cast((change > 0) | (since > 0), tf.float32)
            found = tf.tensor_scatter_nd_update(
                found, [[number]], [tf.stack([own, is_moved])]
            )
            last_rows.assign(rows)
            last.assign(new)
        self._found.assign(found)
        self._last.assign(after)

    def value(self):
        """Returns what was found as a float32 tensor.

        Its shape is `[len(variables), len(COLUMNS)]`: the L2 norm of the
        last update over that of the weight; and 1 if the weight differs from
        the one at the record before.
        """
        return self._found.value()

    def _sample(self):
        flat, begin = tf.constant([-1]), tf.constant([0])
        samples, strides = [], {}
        for variable in self._variables:
            sample = tf.raw_ops.Reshape(tensor=read(variable), shape=flat)
            stride = _stride(num_elements(variable))
            if stride > 1:
                if stride not in strides:
                    strides[stride] = tf.constant([stride])
                sample = tf.raw_ops.StridedSlice(
                    input=sample,
                    begin=begin,
                    end=begin,
                    strides=strides[stride],
                    begin_mask=1,
                    end_mask=1,
                )
            if sample.dtype.is_complex:
                sample = tf.abs(sample)
            if sample.dtype != self._dtype:
                sample = tf.cast(sample, self._dtype)
            samples.append(sample)
        return tf.concat(samples, axis=0)

    def _sums(self, values, groups):
        number = len(self._variables)
        if self._is_xla or not self._groups.size:
            return tf.math.unsorted_segment_sum(values, groups, number)
        # Six times as fast, but not known to XLA.
        found = tf.math.segment_sum(values, groups)
        num_missing = number - 1 - int(self._groups[-1])
        return tf.pad(found, [[0, num_missing]]) if num_missing else found

    def _rows(self, number, rows):
        """Some rows of a variable, zeros where there is none."""
        value = tf.convert_to_tensor(self._variables[number])
        found = tf.cast(tf.gather(value, tf.maximum(rows, 0)), tf.float32)
        shape = [_MOST_ROWS, *[1] * (len(found.shape) - 1)]
        is_row = tf.reshape(tf.not_equal(rows, _NO_ROW), shape)
        return tf.where(is_row, found, tf.zeros_like(found))

    def _buffers_of(self, number):
        if number not in self._buffers:
            shape = [_MOST_ROWS, *self._variables[number].shape[1:]]
            with guard_variables():
                # Rows and their values: of this record, and of the last one.
                values = 2 * (tf.fill([_MOST_ROWS], _NO_ROW), tf.zeros(shape))
                self._buffers[number] = tuple(
                    tf.Variable(value, trainable=False) for value in values
                )
        return self._buffers[number]


def _largest_rows(gradient, rank):
    """The rows in which a `tf.IndexedSlices` is largest, then `_NO_ROW`s."""
    axes = list(range(1, rank))
    sizes = tf.reduce_max(tf.abs(gradient.values), axis=axes)
    # There may be fewer.
    more = [[0, _MOST_ROWS]]
    sizes = tf.pad(sizes, more, constant_values=-1.0)
    rows = tf.cast(tf.reshape(gradient.indices, [-1]), tf.int32)
    rows = tf.pad(rows, more, constant_values=_NO_ROW)
    return tf.gather(rows, tf.math.top_k(sizes, _MOST_ROWS).indices)


def _stride(size):
    return max(1, -(-size // _MOST_ELEMENTS))


def _num_sampled(size):
    return -(-size // _stride(size))
