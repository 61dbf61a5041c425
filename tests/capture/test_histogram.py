"""Histograms of gradients against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard.backend.tensorflow.capture.statistics import (
    BINS,
    histogram,
)

RANDOM = np.random.default_rng(0)
CASES = {
    "normal": RANDOM.normal(size=(40, 7)).astype("float32"),
    "scalar": np.float32(3.0),
    "equal": np.full([5], 2.5, np.float32),
    "zero": np.zeros([3, 3], np.float32),
    "huge": np.array([-3e38, 0.0, 3e38], np.float32),
    "tiny": (RANDOM.normal(size=50) * 1e-30).astype("float32"),
    "half": RANDOM.normal(size=90).astype("float16"),
    "bad": np.array([1, np.nan, 2, np.inf, -np.inf, 3], np.float32),
}


@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_as_numpy(name, xla):
    """The same ends, the same number in all, at most one bin beside."""
    function = tf.function(histogram, jit_compile=xla)
    found = function(tf.constant(CASES[name]), tf.constant(1.0)).numpy()
    values = CASES[name].astype("float64").ravel()
    values = values[np.isfinite(values)]
    ends = (values.min(), values.max())
    np.testing.assert_allclose(found[:2], ends, rtol=1e-6)
    assert found[2:].sum() == len(values)
    if ends[0] < ends[1]:
        expected, _ = np.histogram(values, BINS, ends)
        gap = np.cumsum(found[2:]) - np.cumsum(expected)
        assert np.abs(gap).max() <= 1


def test_loss_scale_is_taken_out():
    found = histogram(tf.constant([8.0, 16.0]), tf.constant(8.0)).numpy()
    assert (1.0, 2.0, 1.0, 1.0) == (found[0], found[1], found[2], found[-1])


def test_sparse_rows_are_added_up():
    rows = tf.constant([[1.0], [2.0], [5.0]])
    slices = tf.IndexedSlices(rows, tf.constant([4, 4, 0]), tf.constant([9, 1]))
    found = histogram(slices, tf.constant(1.0)).numpy()
    assert found[1] == 5.0


@pytest.mark.parametrize("gradient", [None, tf.constant([np.nan])])
def test_nothing_to_count(gradient):
    assert not histogram(gradient, tf.constant(1.0)).numpy().any()
