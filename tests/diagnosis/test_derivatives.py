"""Losses that are made of derivatives: what is zero there, and why."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback, diagnose
from tests.fitting import MODES, NAMES

modes = pytest.mark.parametrize("eager", MODES, ids=NAMES)
X = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
Y = np.zeros((32, 1), "float32")


class Physics(keras.Model):
    """A network that is trained by derivatives of its output.

    Args:
        activation: That of its hidden layer.
        order: Of the derivative, 1 or 2.
        boundary: Weight of a term with the output itself.
    """

    def __init__(self, activation, order=2, boundary=0.0):
        super().__init__()
        self.order, self.boundary = order, boundary
        self.hidden = keras.layers.Dense(
            8,
            activation=activation,
            bias_initializer=keras.initializers.RandomNormal(seed=1),
            kernel_initializer=keras.initializers.GlorotUniform(seed=1),
        )
        self.head = keras.layers.Dense(1)

    def call(self, x):
        return self.head(self.hidden(x))

    def train_step(self, data):
        x, _ = data
        with tf.GradientTape() as tape:
            with tf.GradientTape() as outer:
                outer.watch(x)
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    value = self(x)
                found = inner.gradient(value, x)
            if self.order == 2:
                found = outer.gradient(found, x)  # second derivative
            loss = tf.reduce_mean(tf.square(found + tf.sin(x)))
            if self.boundary:
                loss += self.boundary * tf.reduce_mean(tf.square(value))
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


def report_of(model, eager, num_steps=2):
    """Trains a few steps and returns the report."""
    model.compile("sgd", run_eagerly=eager)
    callback = GradHealthCallback()
    model.fit(
        X[: 16 * num_steps],
        Y[: 16 * num_steps],
        batch_size=16,
        verbose=0,
        callbacks=[callback],
    )
    return callback.report


@modes
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "relu6"])
def test_second_derivative_of_a_piecewise_linear_activation(activation, eager):
    """It is zero for all data: told on the first batch, at the tape's line."""
    with pytest.warns(UserWarning, match="GG212"):
        report = report_of(Physics(activation), eager, num_steps=1)
    (told,) = report.diagnoses
    assert (told.code, told.certainty) == ("GG212", "proved")
    assert told.snippet[told.line - told.evidence["snippet_start"]].endswith(
        "# second derivative"
    )
    assert set(told.variables) == {row.path for row in report.variables}
    assert told.severity == "error"


@modes
def test_smooth_activation_with_a_boundary_term_is_healthy(eager):
    """The same network, whose second derivative is something."""
    report = report_of(Physics("tanh", boundary=1.0), eager)
    assert report.verdict == "healthy"


@modes
def test_relu_of_which_a_first_derivative_is_used_is_healthy(eager):
    """A gradient penalty of a ReLU network trains its kernels."""
    report = report_of(Physics("relu", order=1, boundary=1.0), eager)
    assert not report.diagnoses


@modes
def test_bias_that_no_derivative_depends_on(eager):
    """It is not called an output that is thrown away."""
    with pytest.warns(UserWarning, match="GG310"):
        report = report_of(Physics("tanh", order=1), eager)
    (told,) = report.diagnoses
    assert told.code == "GG310"
    assert [path.split("/")[-1] for path in told.variables] == ["bias"]
    assert told.severity == "warning"


def test_diagnose_tells_both():
    """Without a training, on one batch."""
    model = Physics("relu")
    model.compile("sgd")
    assert [d.code for d in diagnose(model, X, Y).diagnoses] == ["GG212"]
    model = Physics("tanh", order=1)
    model.compile("sgd")
    assert [d.code for d in diagnose(model, X, Y).diagnoses] == ["GG310"]
