"""Step 2 of 5: gradients become small statistic tensors, in the graph."""

import tensorflow as tf

from keras_gradguard.diagnosis import internals
from keras_gradguard.update import num_elements

MISSING = -1.0
UNMEASURED = -2.0
# The columns of the statistics, in this order.
COLUMNS = ("norm", "largest", "mean", "zero_share", "num_nonfinite")
# A square as small as this has lost bits, or all of them.
_SMALLEST_SQUARE = 1e-30


def squared_norm(gradient):
    """Returns the squared L2 norm of one gradient.

    Rows of `IndexedSlices` that belong to the same index are added up
    first, as the optimizer does, without making them dense.

    Args:
        gradient: A float tensor of any shape, `tf.IndexedSlices`, or `None`.

    Returns:
        A scalar float32 tensor; `MISSING` where the gradient is `None`.
    """
    if gradient is None:
        return tf.constant(MISSING, tf.float32)
    return 2.0 * half_square(gradient)


def half_square(gradient):
    """Returns half of `squared_norm` of a gradient that is not missing."""
    # l2_loss is sum(t ** 2) / 2 in one pass over the memory.
    return tf.cast(tf.nn.l2_loss(real(gradient)), tf.float32)


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


def norms(gradients, loss_scale):
    """Returns the L2 norms of a step's gradients.

    Args:
        gradients: A list of gradients as `optimizer.apply` gets them.
        loss_scale: Scalar float32 tensor the loss was multiplied with.

    Returns:
        A float32 tensor of shape `[len(gradients)]`, `MISSING` for `None`.
    """
    squares = tf.stack([squared_norm(gradient) for gradient in gradients])
    return _norms(squares, loss_scale)


def _norms(squares, loss_scale):
    measured = tf.sqrt(tf.maximum(squares, 0.0)) / loss_scale
    # NaN fails every comparison, so it must not be taken for a missing one.
    return tf.where(tf.equal(squares, MISSING), MISSING, measured)


def statistics(gradients, variables, loss_scale):
    """Returns all statistics of a step's gradients.

    Args:
        gradients: A list of gradients as `optimizer.apply` gets them.
        variables: The variables they belong to.
        loss_scale: Scalar float32 tensor the loss was multiplied with.

    Returns:
        A float32 tensor `[len(gradients), len(COLUMNS)]`: the L2 norm (also
        where its square leaves the range of float32), the largest and the
        mean absolute value, all unscaled, the share of exact zeros, and the
        number of elements that are NaN or Inf. `MISSING` for `None`.
    """
    rows = [
        (real(gradient), num_elements(variable), number)
        for number, (gradient, variable) in enumerate(
            zip(gradients, variables, strict=True)
        )
        if gradient is not None and num_elements(variable)
    ]
    found = [
        tf.fill([len(COLUMNS)], MISSING if num_elements(variable) else 0.0)
        for variable in variables
    ]
    if not rows:
        return tf.stack(found)
    sizes = tf.constant([float(size) for _, size, _ in rows])
    scale = tf.cast(loss_scale, tf.float32)
    sums = tf.stack([_sums(tf.abs(values)) for values, _, _ in rows])
    halves, largest, totals, nonzero = tf.unstack(sums, axis=1)
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
        (halves > _SMALLEST_SQUARE) | tf.equal(largest, 0.0)
    )

    def exactly():
        return tf.stack([_exact_row(v, n, loss_scale) for v, n, _ in rows])

    measured = internals.rarely(~tf.reduce_all(is_exact), exactly, known)
    for row, (_, _, number) in zip(tf.unstack(measured), rows, strict=True):
        found[number] = row
    return measured if len(rows) == len(found) else tf.stack(found)


def _sums(values):
    """Half the square, the largest, the sum and how many are not zero."""
    nonzero = tf.math.count_nonzero(values, dtype=tf.float32)
    found = [
        tf.nn.l2_loss(values),
        tf.reduce_max(values),
        tf.reduce_sum(values),
        nonzero,
    ]
    return tf.stack([tf.cast(value, tf.float32) for value in found])


def _exact_row(gradient, size, loss_scale):
    """The statistics of one gradient whose square float32 cannot hold."""
    values = tf.abs(gradient)
    largest = tf.reduce_max(values)
    is_number = tf.math.is_finite(largest) & (largest > 0)
    unit = tf.where(is_number, largest, tf.ones_like(largest))
    norm = unit * tf.sqrt(2.0 * tf.nn.l2_loss(values / unit))
    scale = tf.cast(loss_scale, values.dtype)
    nonzero = tf.math.count_nonzero(values, dtype=tf.float32)
    bad = tf.math.count_nonzero(~tf.math.is_finite(values), dtype=tf.float32)
    mean = tf.reduce_sum(values / unit) * (unit / (size * scale))
    row = [norm / scale, largest / scale, mean]
    row = [tf.cast(value, tf.float32) for value in row]
    return tf.stack([*row, 1.0 - nonzero / size, bad])
