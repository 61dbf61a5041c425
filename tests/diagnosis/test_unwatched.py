"""A derivative that is `None` because the tape does not watch its source."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback
from tests.fitting import MODES, NAMES, marked

modes = pytest.mark.parametrize("eager", MODES, ids=NAMES)
X = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")


class Network(keras.Model):
    """Uses a derivative of its output by its input.

    Args:
        use: What is done with the derivative, given with the input.
        is_watched: Whether the inner tape watches the input.
    """

    def __init__(self, use, is_watched=False):
        super().__init__()
        self.use, self.is_watched = use, is_watched
        self.hidden = keras.layers.Dense(6, "tanh")
        self.head = keras.layers.Dense(1, use_bias=False)

    def call(self, x):
        """Returns the output."""
        return self.head(self.hidden(x))

    def train_step(self, data):
        """Trains by the derivative alone."""
        x, _ = data
        with tf.GradientTape() as tape:
            with tf.GradientTape() as inner:
                if self.is_watched:
                    inner.watch(x)
                value = self(x)
            slope = inner.gradient(value, x)  # cut
            loss = tf.reduce_mean(tf.square(self.use(slope, x)))
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


def added(slope, x):
    """Computes with it."""
    return slope + x


def as_tensor(slope, x):
    """Hands it to an op by name."""
    return tf.add(slope, x)


def trained(model, eager):
    """Trains one epoch; returns the callback and the error."""
    model.build((None, 3))
    model.compile("sgd", run_eagerly=eager)
    callback, error = GradHealthCallback(), None
    try:
        model.fit(X, X, batch_size=8, verbose=0, callbacks=[callback])
    except (TypeError, ValueError) as raised:
        error = raised
    return callback, error


@modes
@pytest.mark.parametrize("use", [added, as_tensor])
def test_source_is_not_watched(use, eager):
    """The error of TensorFlow passes, with the line of the derivative."""
    callback, error = trained(Network(use), eager)
    (told,) = callback.report.diagnoses
    assert told.code == "GG126"
    assert marked(Network.train_step) == (told.file, told.line)
    assert any("GG126" in note for note in error.__notes__)


@modes
def test_source_is_watched(eager):
    """The same network with `watch`."""
    callback, error = trained(Network(added, True), eager)
    assert error is None
    assert callback.report.verdict == "healthy"


@modes
def test_none_of_another_kind(eager):
    """An error about a `None` that no tape has returned is left alone."""

    def forgotten(slope, x):
        missing = None
        return slope + missing * x

    callback, error = trained(Network(forgotten, True), eager)
    assert isinstance(error, (TypeError, ValueError))
    assert callback.report.diagnoses == ()
    assert not hasattr(error, "__notes__") or not any(
        "GG126" in note for note in error.__notes__
    )
