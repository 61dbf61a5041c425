"""Step 2 of 5: gradients become small statistic tensors, in the graph."""

import tensorflow as tf

MISSING = -1.0
UNMEASURED = -2.0


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
    if isinstance(gradient, tf.IndexedSlices):
        gradient = _summed_rows(gradient)
    gradient = tf.convert_to_tensor(gradient)
    if gradient.dtype.is_complex:
        gradient = tf.abs(gradient)
    if gradient.dtype in (tf.float16, tf.bfloat16):
        gradient = tf.cast(gradient, tf.float32)
    # l2_loss is sum(t ** 2) / 2 in one pass over the memory.
    return tf.cast(2.0 * tf.nn.l2_loss(gradient), tf.float32)


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
    measured = tf.sqrt(tf.maximum(squares, 0.0)) / loss_scale
    # NaN fails every comparison, so it must not be taken for a missing one.
    return tf.where(tf.equal(squares, MISSING), MISSING, measured)


class Capture:
    """Holds the norms of one optimizer's last step, outside the graph.

    Args:
        optimizer: The Keras optimizer that gets the gradients.
        variables: The variables it trains, in the order of the gradients.
    """

    def __init__(self, optimizer, variables):
        self.optimizer = optimizer
        self.variables = tuple(variables)
        with tf.init_scope():
            self._norms = tf.Variable(
                tf.fill([len(self.variables)], UNMEASURED),
                trainable=False,
                name="gradguard_norms",
            )

    def store(self, gradients):
        """Adds the ops that measure `gradients` to the step."""
        scale = self.optimizer.scale_loss(tf.constant(1.0))
        self._norms.assign(norms(gradients, tf.cast(scale, tf.float32)))

    def read(self):
        """Returns the last norms: a float32 array `[len(variables)]`."""
        return self._norms.numpy()
