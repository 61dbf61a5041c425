"""Step 4: what the numbers of a tensor are; missing is a value too."""

import numpy as np
import tensorflow as tf


def array(tensor):
    """Returns the values of a tensor or of `IndexedSlices`, else `None`.

    Args:
        tensor: What an op took or gave: floats, integers, a resource, or
            `None`.

    Returns:
        A NumPy array. Of `IndexedSlices` it is the rows that are there.
    """
    if isinstance(tensor, tf.IndexedSlices):
        tensor = tensor.values
    if not isinstance(tensor, tf.Tensor) or not hasattr(tensor, "numpy"):
        return None
    if not (tensor.dtype.is_floating or tensor.dtype.is_complex):
        return None
    return tensor.numpy()


def is_finite(tensor):
    """Returns whether no element is NaN or Inf; what has none is finite."""
    found = array(tensor)
    return found is None or bool(np.isfinite(found).all())


def is_zero(tensor, noise=0.0):
    """Returns whether there is a gradient, and it is zero throughout.

    Args:
        tensor: A gradient, or `None`.
        noise: The largest absolute value that counts as zero.
    """
    found = array(tensor)
    if found is None:
        return False
    if noise:
        return bool(np.all(np.abs(found) <= noise))
    return not np.count_nonzero(found)


def bad_elements(tensor):
    """Returns the indices of the elements that are NaN or Inf.

    Returns:
        An integer array `[count, rank]`.
    """
    found = array(tensor)
    if found is None:
        return np.zeros((0, 0), int)
    return np.argwhere(~np.isfinite(found))
