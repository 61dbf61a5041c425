"""Step 2 of 5: gradients become small statistic tensors, in the graph."""

import tensorflow as tf

from keras_gradguard.sums import compiled_sum

MISSING = -1.0
UNMEASURED = -2.0
# The columns of the statistics, in this order.
COLUMNS = ("norm", "largest", "mean", "zero_share", "num_nonfinite")


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
