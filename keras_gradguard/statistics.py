"""Step 2 of 5: all statistics of the gradients of a step, in the graph.

They are made for records and for bad steps, so it is the ops that count that
are made while a step is traced: few for each variable.
"""

import functools

import tensorflow as tf

from keras_gradguard.capture import COLUMNS, MISSING, half_square, real
from keras_gradguard.diagnosis import internals
from keras_gradguard.sums import compiled_sum
from keras_gradguard.together import Together
from keras_gradguard.update import num_elements

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
            together = Together(own, [sizes[n] for n in small])
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
            here = internals.runtime()
            rows = [_exact_sums(v.dtype, here)(v, scale) for v in values]
            parts.append(tf.stack(rows))
        found = tf.concat(parts, axis=0)
        norm, largest, total, nonzero, bad = tf.unstack(found, axis=1)
        columns = [norm, largest, total / sizes, 1.0 - nonzero / sizes, bad]
        return tf.stack(columns, axis=1)

    return internals.rarely(~tf.reduce_all(is_exact), exactly, known)


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
