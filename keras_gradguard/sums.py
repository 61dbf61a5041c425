"""Step 2 of 5: how XLA adds up the elements of a gradient."""

import tensorflow as tf

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
