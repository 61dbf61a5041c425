"""Norms equal those of an independent tape on the same batch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback, diagnose
from keras_gradguard.backend.tensorflow.capture.statistics import (
    half_square,
    statistics,
)
from keras_gradguard.measure.rows import global_norm, unique_paths
from keras_gradguard.records.norms import MISSING
from tests.fitting import MODES, NAMES

pytestmark = pytest.mark.smoke

LAYERS = keras.layers
_generator = np.random.default_rng(11)


def squared_norm(gradient):
    """What the guard takes for the squared norm of a gradient."""
    return 2.0 * half_square(gradient)


def numbers(*shape):
    """Float32 noise."""
    return _generator.normal(size=shape).astype("float32")


def dense():
    """Two dense layers."""
    inner = [LAYERS.Dense(8, activation="tanh"), LAYERS.Dense(3)]
    return keras.Sequential([keras.Input((6,)), *inner]), numbers(16, 6)


def convolution():
    """A convolution, pooled."""
    inner = [LAYERS.Conv2D(4, 3), LAYERS.GlobalMaxPooling2D(), LAYERS.Dense(3)]
    model = keras.Sequential([keras.Input((8, 8, 2)), *inner])
    return model, numbers(16, 8, 8, 2)


def recurrent():
    """An LSTM."""
    inner = [LAYERS.LSTM(6), LAYERS.Dense(3)]
    return keras.Sequential([keras.Input((5, 4)), *inner]), numbers(16, 5, 4)


def embedding():
    """An embedding whose rows repeat within the batch: IndexedSlices."""
    inner = [LAYERS.Embedding(9, 4), LAYERS.Flatten(), LAYERS.Dense(3)]
    model = keras.Sequential([keras.Input((7,), dtype="int32"), *inner])
    return model, _generator.integers(0, 5, (16, 7))


def shared():
    """One layer used twice."""
    inputs, layer = keras.Input((6,)), LAYERS.Dense(6, activation="tanh")
    outputs = LAYERS.Dense(3)(layer(layer(inputs)))
    return keras.Model(inputs, outputs), numbers(16, 6)


MODELS = [dense, convolution, recurrent, embedding, shared]


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_norms_equal_the_tapes(make, eager):
    """Each norm and the global one agree to 1e-5; so do `diagnose`'s."""
    keras.utils.set_random_seed(4)
    model, x = make()
    y = numbers(16, 3)
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=eager)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
    gradients = [
        np.asarray(tf.convert_to_tensor(gradient), "float64")
        for gradient in tape.gradient(loss, model.trainable_variables)
    ]
    expected = [np.linalg.norm(gradient) for gradient in gradients]
    callback = GradHealthCallback(every=1)
    model.fit(x, y, batch_size=16, verbose=0, callbacks=[callback])
    for report in (callback.report, diagnose(model, x, y)):
        assert [v.path for v in report.variables] == list(
            unique_paths(model.trainable_variables)
        )
        found = [row.norm for row in report.variables]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        np.testing.assert_allclose(
            report.global_norm, np.linalg.norm(expected), rtol=1e-5
        )


def test_repeated_rows_are_added_before_squaring():
    """The oracle is the dense gradient."""
    slices = tf.IndexedSlices(
        tf.constant([[1.0, 2.0], [3.0, 4.0], [-1.0, 0.5]]),
        tf.constant([4, 1, 4]),
        dense_shape=tf.constant([6, 2]),
    )
    dense_gradient = tf.convert_to_tensor(slices)
    expected = np.square(dense_gradient.numpy()).sum()
    for function in (squared_norm, tf.function(squared_norm)):
        np.testing.assert_allclose(function(slices), expected, rtol=1e-6)
    jitted = tf.function(squared_norm, jit_compile=True)
    np.testing.assert_allclose(jitted(slices), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes(dtype):
    """A float16 gradient of 300 does not overflow when it is squared."""
    gradient = tf.cast(tf.fill([4], 300.0), dtype)
    assert 360000.0 == float(squared_norm(gradient))


def test_missing_and_nonfinite_are_told_apart():
    """None is the sentinel; NaN and Inf stay themselves; zero is zero."""
    gradients = [None, *(tf.fill([2], v) for v in (np.nan, np.inf, 0.0))]
    variables = [tf.Variable(tf.zeros([2])) for _ in gradients]
    found = statistics(gradients, variables, tf.constant(1.0)).numpy()[:, 0]
    assert MISSING == found[0]
    assert np.isnan(found[1])
    assert np.isposinf(found[2])
    assert 0.0 == found[3]


def test_loss_scale_is_taken_out():
    """A mixed_float16 model's norms are those of the unscaled loss."""
    keras.utils.set_random_seed(4)
    model, x = dense()
    y = numbers(16, 3)
    reports = []
    for optimizer in (
        keras.optimizers.SGD(0.0),
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.0)),
        keras.optimizers.SGD(0.0, loss_scale_factor=64.0),
    ):
        model.compile(optimizer, "mse")
        callback = GradHealthCallback(every=1)
        model.fit(x, y, batch_size=16, verbose=0, callbacks=[callback])
        reports.append([row.norm for row in callback.report.variables])
    np.testing.assert_allclose(reports[1], reports[0], rtol=1e-5)
    np.testing.assert_allclose(reports[2], reports[0], rtol=1e-5)


def test_global_norm_of_records():
    """Without any there is none; one NaN makes it NaN."""
    assert 5.0 == global_norm([3.0, 4.0])
    assert global_norm([]) is None
    assert np.isnan(global_norm([np.nan, np.inf]))
    assert np.isnan(global_norm([1.0, np.nan]))
    assert np.inf == global_norm([1.0, np.inf])


def test_same_path_twice():
    """Keras repeats a path; the rows do not."""
    names = [keras.Variable([1.0], name="w") for _ in range(3)]
    assert ("w", "w#2", "w#3") == unique_paths(names)
