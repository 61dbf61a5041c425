"""Step 2 of 5: gradients become small statistic tensors, in the graph."""

import tensorflow as tf

from keras_gradguard.diagnosis import internals
from keras_gradguard.treatment import Treatment
from keras_gradguard.update import UpdateCapture, num_elements

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
    # l2_loss is sum(t ** 2) / 2 in one pass over the memory.
    return tf.cast(2.0 * tf.nn.l2_loss(real(gradient)), tf.float32)


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
        _statistics(gradient, num_elements(variable), loss_scale)
        for gradient, variable in zip(gradients, variables, strict=True)
    ]
    return tf.stack(rows)


def _statistics(gradient, size, loss_scale):
    if gradient is None or not size:
        return tf.fill([len(COLUMNS)], MISSING if size else 0.0)
    values = tf.abs(real(gradient))
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


class Capture:
    """Holds the statistics of one optimizer's steps, outside the graph.

    Args:
        optimizer: The Keras optimizer that gets the gradients.
        variables: The variables it trains, in the order of the gradients.
    """

    def __init__(self, optimizer, variables):
        self.optimizer = optimizer
        self.variables = tuple(variables)
        self.updates = UpdateCapture(self.variables)
        self.treatment = Treatment(optimizer)
        shape = [len(self.variables), len(COLUMNS)]
        with internals.room():
            empty = tf.fill(shape, UNMEASURED)
            self._statistics = tf.Variable(empty, trainable=False)
            # Those of the first bad step, until they have been read.
            self._bad = tf.Variable(empty, trainable=False)

    def store(self, gradients, due, is_scaled=True):
        """Adds the ops that measure `gradients` to the step.

        Args:
            gradients: The gradients as `optimizer.apply` gets them.
            due: Boolean scalar tensor; whether this step is to be recorded.
            is_scaled: Whether the optimizer's loss scale is still in them.

        Returns:
            `(squared norm of all gradients, is_bad)`: a scalar float32
            tensor, unscaled, and a boolean scalar tensor, whether some
            element is NaN or Inf that is no overflow of a loss scale that
            is still finding its level.
        """
        one = tf.constant(1.0)
        loss_scale = tf.cast(self.optimizer.scale_loss(one), tf.float32)
        scale = loss_scale if is_scaled else one
        squares = tf.stack([squared_norm(gradient) for gradient in gradients])
        unscaled = tf.maximum(squares, 0.0) / tf.square(scale)
        total = tf.reduce_sum(unscaled)
        self.treatment.store(loss_scale, unscaled, is_scaled)
        # A square may leave the range of float32, so this is but a suspicion.
        suspect = ~tf.math.is_finite(tf.reduce_sum(squares))

        def measure():
            found = statistics(gradients, self.variables, scale)
            self._statistics.assign(found)
            if is_scaled:
                self.treatment.store_largest(found[:, 1])
            is_bad = tf.reduce_any(found[:, -1] > 0)
            is_first = is_bad & tf.equal(self._bad[0, 0], UNMEASURED)
            self._bad.assign(tf.where(is_first, found, self._bad))
            return is_bad

        is_bad = internals.rarely(due | suspect, measure, False)
        return total, is_bad & (scale <= 1.0)

    def values(self):
        """Returns what `read` and `UpdateCapture.read` return, as tensors."""
        return self._statistics.value(), self.updates.value()

    def read(self):
        """Returns the last statistics: `[len(variables), len(COLUMNS)]`."""
        return self._statistics.numpy()

    def clear(self):
        """Forgets the last statistics: the next step may skip this update."""
        self._statistics.assign(tf.fill(self._statistics.shape, UNMEASURED))

    def take_bad(self):
        """Returns the statistics of the first bad step since the last call.

        Returns:
            As `read`; `UNMEASURED` throughout where there was none.
        """
        found = self._bad.numpy()
        self._bad.assign(tf.fill(found.shape, UNMEASURED))
        return found
