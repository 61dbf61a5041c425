"""Gradients that cancel: a shift of scores may, a network with itself not."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback
from tests.fitting import MODES, NAMES

modes = pytest.mark.parametrize("eager", MODES, ids=NAMES)
X = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
Y = np.random.default_rng(1).normal(size=(64, 1)).astype("float32")


class Policy(keras.Model):
    """An actor whose new probabilities are compared with old ones.

    Args:
        is_same: Whether the old ones come of the very same network.
    """

    def __init__(self, is_same):
        super().__init__()
        self.actor = self._actor("actor")
        self.before = self.actor if is_same else self._actor("before")
        self.before.trainable = is_same
        self.critic = keras.layers.Dense(1, name="critic")

    def _actor(self, name):
        hidden = keras.layers.Dense(8, "tanh")
        return keras.Sequential([hidden, keras.layers.Dense(1)], name=name)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            new, old = self.actor(x), self.before(x)
            ratio = tf.exp(new - old)  # cut
            value = tf.reduce_mean(tf.square(self.critic(x) - y))
            loss = value - tf.reduce_mean(tf.minimum(ratio * y, 1.2 * y))
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


class Ranking(keras.Model):
    """One scorer for both items of a pair: its last bias cancels."""

    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(8, "tanh")
        self.score = keras.layers.Dense(1)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            one = self.score(self.hidden(x))
            other = self.score(self.hidden(x[::-1]))
            loss = tf.reduce_mean(tf.square(one - other - y))
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


def report_of(model, eager, num_steps):
    """Trains with a record of each step."""
    keras.utils.set_random_seed(2)
    model.compile("sgd", run_eagerly=eager)
    callback = GradHealthCallback(every=1)
    size = 8 * num_steps
    model.fit(X[:size], Y[:size], batch_size=8, verbose=0, callbacks=[callback])
    return callback.report


@modes
def test_network_against_itself(eager):
    """Told on the first batch, where the two meet."""
    with pytest.warns(UserWarning, match="GG209"):
        report = report_of(Policy(True), eager, 1)
    (told,) = report.diagnoses
    assert told.code == "GG209"
    start = told.evidence["snippet_start"]
    assert told.snippet[told.line - start].endswith("# cut")
    assert len(told.variables) == 4
    assert all("actor" in path for path in told.variables)


@modes
def test_network_against_a_copy(eager):
    """The old probabilities of a frozen network: a PPO that trains."""
    assert report_of(Policy(False), eager, 8).diagnoses == ()


@modes
def test_pairs_of_one_scorer(eager):
    """Its bias gets exactly zero, as it should."""
    report = report_of(Ranking(), eager, 8)
    assert report.diagnoses == ()
    zero = [row.path for row in report.variables if row.status == "zero"]
    assert all(path.endswith("bias") for path in zero)
    assert report.verdict == "healthy"


def constant_sum(y_true, y_pred):
    """A sum of shares: constant, but for rounding."""
    del y_true
    return keras.ops.mean(keras.ops.sum(keras.ops.softmax(y_pred), axis=-1))


@modes
def test_constant_but_for_rounding(eager):
    """Too few records for a verdict: suspected when `fit` ends."""
    keras.utils.set_random_seed(2)
    layers = [keras.layers.Dense(8, "tanh"), keras.layers.Dense(16)]
    model = keras.Sequential([keras.Input((6,)), *layers])
    model.compile("sgd", constant_sum, run_eagerly=eager)
    callback = GradHealthCallback(every=1)
    model.fit(X[:60], Y[:60], batch_size=20, verbose=0, callbacks=[callback])
    (told,) = callback.report.diagnoses
    assert ("GG209", "suspected") == (told.code, told.certainty)
    assert "seen in all 3 records of this training" in told.evidence["notes"]
