"""Losses and steps that draw random numbers draw the same ones guarded."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import config
from tensorflow.python.ops import stateful_random_ops

from keras_gradguard import GradHealthCallback, diagnose
from tests.fitting import MODES, NAMES, X, Y


def by_tensorflow():
    """A number that an op without a seed draws."""
    return 0.1 * tf.random.normal([])


def by_numpy():
    """A number that NumPy draws."""
    return 0.1 * np.float32(np.random.normal())


def by_python():
    """A number that Python draws."""
    return 0.1 * random.random()


def by_keras():
    """A number that Keras draws."""
    return 0.1 * keras.random.normal([])


class Noisy(keras.Sequential):
    """A model whose own step adds a number to its target.

    Args:
        draw: Draws it.
    """

    def __init__(self, draw):
        super().__init__([keras.layers.Dense(3)])
        self.draw = draw

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(y + self.draw() - self(x)))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"mse": loss}


def noisy_loss(draw):
    """A loss that adds a number to its target."""
    return lambda y, p: tf.reduce_mean(tf.square(y + draw() - p), axis=-1)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("is_own", [False, True], ids=["loss", "step"])
@pytest.mark.parametrize("seed", [1, 7])
@pytest.mark.parametrize("draw", [by_tensorflow, by_numpy, by_python, by_keras])
def test_same_numbers(draw, seed, is_own, eager):
    """So the weights are those of a bare fit, and what is drawn after it."""
    found = []
    for callbacks in ([], [GradHealthCallback(every=1)]):
        # Without Keras' own generator, which is made when it is needed.
        keras.backend.clear_session()
        keras.utils.set_random_seed(seed)
        model = keras.Sequential([keras.layers.Dense(3)])
        loss = noisy_loss(draw)
        if is_own:
            model, loss = Noisy(draw), None
        model.compile("adam", loss, run_eagerly=eager)
        model.fit(X, Y, batch_size=4, verbose=0, callbacks=callbacks)
        later = [random.random(), np.random.normal(), tf.random.normal([])]
        later.append(keras.random.normal([]))
        found.append([*model.get_weights(), *map(np.asarray, later)])
    for bare, guarded in zip(*found, strict=True):
        np.testing.assert_array_equal(bare, guarded)


def test_where_ops_are_deterministic(monkeypatch):
    """TensorFlow makes no global generator then; a look does without."""
    monkeypatch.setattr(stateful_random_ops, "global_generator", None)
    keras.utils.set_random_seed(1)
    tf.config.experimental.enable_op_determinism()
    try:
        model = keras.Sequential([keras.layers.Dense(3)])
        model.compile("sgd", "mse", run_eagerly=True)
        callback = GradHealthCallback(every=1)
        model.fit(X, Y, verbose=0, callbacks=[callback])
        assert diagnose(model, X, Y).ok
    finally:
        config.disable_op_determinism()
    assert {"ok"} == {row.status for row in callback.report.variables}


def test_name_that_a_step_has_taken():
    """Logs with a `grad_norm` of their own are what they were."""

    class Own(Noisy):
        def train_step(self, data):
            logs = super().train_step(data)
            return {"loss": logs["mse"], "grad_norm": tf.constant(5.0)}

    histories = []
    for callbacks in ([], [GradHealthCallback(every=1, log_norm=True)]):
        keras.utils.set_random_seed(1)
        model = Own(by_python)
        model.compile("sgd", "mse")
        fitted = model.fit(X, Y, verbose=0, callbacks=callbacks)
        histories.append(fitted.history)
    assert histories[0] == histories[1]
    assert histories[0]["loss"][0] > 0
