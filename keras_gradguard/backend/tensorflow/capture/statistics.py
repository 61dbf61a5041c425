"""The statistics and histograms of the gradients of a step, in the graph.

They are made for records and for bad steps, so it is the ops that count that
are made while a step is traced: few for each variable.
"""

import functools

import numpy as np
import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.graphs import (
    guard_variables,
    rarely,
    runtime_here,
)
from keras_gradguard.backend.tensorflow.internals.variables import num_elements
from keras_gradguard.records.norms import MISSING

# Below it a sum costs less than an op more.
_FEW = 2**14
_LONGEST_ROW = 2048
_SHORTEST_ROW = 64


def compiled_sum(values):
    """Returns the sum of all elements of a tensor, a scalar, for XLA.

    On a processor it adds them up in one thread, 0.3 ns each, and products
    in all, 0.03 ns each: so the sum is that of a product with ones.

    Args:
        values: A tensor of floats.
    """
    row = _row_length(values.shape.num_elements())
    if row is None or tf.config.list_logical_devices("GPU"):
        return tf.reduce_sum(values)
    rows = tf.reshape(values, [-1, row])
    return tf.reduce_sum(tf.linalg.matvec(rows, tf.ones([row], rows.dtype)))


def _row_length(size):
    """The longest row that divides so many elements, `None` if none does."""
    if size is None or size < _FEW:
        return None
    lengths = range(_LONGEST_ROW, _SHORTEST_ROW - 1, -1)
    return next((n for n in lengths if size % n == 0), None)


# The columns of the statistics, in this order.
COLUMNS = ("norm", "largest", "mean", "zero_share", "num_nonfinite")


def half_square(gradient, is_compiled=False):
    """Returns half of `squared_norm` of a gradient that is not missing.

    Args:
        gradient: The gradient.
        is_compiled: Whether XLA compiles the step for sure.
    """
    values = real(gradient)
    if is_compiled:
        half = 0.5 * compiled_sum(tf.square(values))
    else:
        # sum(t ** 2) / 2 in one pass over the memory.
        half = tf.raw_ops.L2Loss(t=values)
    return half if half.dtype == tf.float32 else tf.cast(half, tf.float32)


def real(gradient):
    """Returns a gradient as a real tensor of at least 32 bits.

    Args:
        gradient: A tensor, or `tf.IndexedSlices`: rows of the same index
            are added up, without making it dense.
    """
    if isinstance(gradient, tf.IndexedSlices):
        gradient = _summed_rows(gradient)
    gradient = tf.convert_to_tensor(gradient)
    if gradient.dtype.is_complex:
        gradient = tf.abs(gradient)
    if gradient.dtype in (tf.float16, tf.bfloat16):
        gradient = tf.cast(gradient, tf.float32)
    return gradient


def _summed_rows(slices):
    """Adds up the rows of equal indices; sorts, as XLA has no `unique`."""
    indices = tf.reshape(slices.indices, [-1])
    order = tf.argsort(indices)
    ordered = tf.gather(indices, order)
    starts = tf.cast(ordered[1:] != ordered[:-1], tf.int32)
    groups = tf.concat([tf.zeros_like(ordered[:1], tf.int32), starts], axis=0)
    return tf.math.unsorted_segment_sum(
        tf.gather(slices.values, order),
        tf.cumsum(groups),
        tf.size(indices),
    )


class SmallGradients:
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


# A square as small as this has lost bits, or all of them.
_SMALLEST_SQUARE = 1e-30
_SMALL = 4096


def statistics(gradients, variables, loss_scale, halves=None, is_xla=None):
    """Returns all statistics of a step's gradients.

    Args:
        gradients: A list of gradients as `optimizer.apply` gets them.
        variables: The variables they belong to.
        loss_scale: Scalar float32 tensor the loss was multiplied with.
        halves: `half_square` of each gradient that is not `None`.
        is_xla: Whether XLA compiles the step: it needs no help to measure
            small gradients together, and is slow at the ops that do. `None`
            if nobody knows.

    Returns:
        A float32 tensor `[len(gradients), len(COLUMNS)]`: the L2 norm (also
        where its square leaves the range of float32), the largest and the
        mean absolute value, all unscaled, the share of exact zeros, and the
        number of elements that are NaN or Inf. `MISSING` for `None`.
    """
    there = [n for n, g in enumerate(gradients) if g is not None]
    if halves is None:
        halves = [half_square(gradients[n]) for n in there]
    half_of = dict(zip(there, halves, strict=True))
    sizes = [num_elements(variable) for variable in variables]
    there = [n for n in there if sizes[n]]
    rows = tf.constant([[MISSING] * len(COLUMNS), [0.0] * len(COLUMNS)])
    order = there
    if there:
        values = {n: tf.reshape(real(gradients[n]), [-1]) for n in there}
        small = [
            n
            for n in there
            if is_xla is False and _is_small(gradients[n], sizes[n])
        ]
        order = [*small, *(n for n in there if n not in set(small))]
        together = None
        if small:
            own = [values[n] for n in small]
            together = SmallGradients(own, [sizes[n] for n in small])
        flat = [values[n] for n in order[len(small) :]]
        sums = _sums(together, flat, bool(is_xla))
        measured = _measured(
            together,
            flat,
            tf.stack([half_of[n] for n in order]),
            sums,
            tf.constant([float(sizes[n]) for n in order]),
            loss_scale,
        )
        if order == list(range(len(variables))):
            return measured
        rows = tf.concat([rows, measured], axis=0)
    place = {n: 2 + number for number, n in enumerate(order)}
    places = [place.get(n, 0 if s else 1) for n, s in enumerate(sizes)]
    return tf.gather(rows, tf.constant(places))


def _is_small(gradient, size):
    is_dense = not isinstance(gradient, tf.IndexedSlices)
    return is_dense and size <= _SMALL and not gradient.dtype.is_complex


def _sums(together, values, is_compiled):
    """The largest, the sum and how many are not zero, of each gradient."""
    axis = tf.constant([0])

    def total(values):
        if is_compiled:
            return compiled_sum(values)
        return tf.raw_ops.Sum(input=values, axis=axis)

    parts = [] if together is None else [together.sums()]
    rows = []
    for value in values:
        if value.dtype != tf.float32:
            value = tf.cast(value, tf.float32)
        value = tf.raw_ops.Abs(x=value)
        row = [tf.raw_ops.Max(input=value, axis=axis), total(value)]
        # Nobody else needs the values any more, so they become their signs
        # in place: what costs time is memory.
        with tf.control_dependencies(row):
            nonzero = tf.raw_ops.Sign(x=value)
        row.append(total(nonzero))
        rows.append(tf.raw_ops.Pack(values=row))
    if rows:
        parts.append(tf.stack(rows))
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis=0)


def _measured(together, values, halves, sums, sizes, loss_scale):
    """The rows of gradients that are there, each flat."""
    scale = tf.cast(loss_scale, tf.float32)
    largest, totals, nonzero = tf.unstack(sums, axis=1)
    known = tf.stack(
        [
            tf.sqrt(2.0 * halves) / scale,
            largest / scale,
            totals / (sizes * scale),
            1.0 - nonzero / sizes,
            tf.zeros_like(halves),
        ],
        axis=1,
    )
    is_exact = tf.math.is_finite(halves + totals) & (
        (halves > _SMALLEST_SQUARE) | tf.equal(nonzero, 0.0)
    )

    def exactly():
        parts = [] if together is None else [together.exact_sums(scale)]
        if values:
            here = runtime_here()
            rows = [_exact_sums(v.dtype, here)(v, scale) for v in values]
            parts.append(tf.stack(rows))
        found = tf.concat(parts, axis=0)
        norm, largest, total, nonzero, bad = tf.unstack(found, axis=1)
        columns = [norm, largest, total / sizes, 1.0 - nonzero / sizes, bad]
        return tf.stack(columns, axis=1)

    return rarely(~tf.reduce_all(is_exact), exactly, known)


@functools.cache
def _exact_sums(dtype, runtime):
    """The sums of one gradient whose square float32 cannot hold."""
    del runtime

    def sums(values, loss_scale):
        values = tf.abs(values)
        largest = tf.reduce_max(values)
        is_number = tf.math.is_finite(largest) & (largest > 0)
        unit = tf.where(is_number, largest, tf.ones_like(largest))
        scale = tf.cast(loss_scale, dtype)
        is_bad = ~tf.math.is_finite(values)
        row = [
            unit * tf.sqrt(2.0 * tf.nn.l2_loss(values / unit)) / scale,
            largest / scale,
            tf.reduce_sum(values / unit) * (unit / scale),
            tf.math.count_nonzero(values, dtype=tf.float32),
            tf.math.count_nonzero(is_bad, dtype=tf.float32),
        ]
        return tf.stack([tf.cast(value, tf.float32) for value in row])

    # Traced once for all, and not copied into its callers: a call is one op
    # where these would be thirty.
    flat, scalar = tf.TensorSpec([None], dtype), tf.TensorSpec([])
    with tf.init_scope():
        return tf.function(
            sums,
            input_signature=[flat, scalar],
            autograph=False,
            experimental_attributes={"_noinline": True},
        )


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
