"""A loss that is not finite is found in a `train_step` of the user's own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback
from tests.fitting import X, Y, classifier, marked

MODES = {
    "graph": {},
    "eager": {"run_eagerly": True},
    "xla": {"jit_compile": True},
    "two": {"steps_per_execution": 2},
}
modes = pytest.mark.parametrize("mode", MODES)


class Own(keras.Model):
    """Logs its loss as `name` and a metric as `score`.

    Args:
        loss_of: Returns the loss of a prediction.
        score_of: Returns the metric of a step's number.
    """

    def __init__(self, loss_of, score_of=lambda step: 1.0, name="objective"):
        super().__init__()
        self.body, self.loss_of = classifier("mse"), loss_of
        self.score_of, self.entry = score_of, name
        self.count = self.add_weight(
            shape=(), initializer="zeros", trainable=False
        )

    def call(self, x):
        return self.body(x)

    def train_step(self, data):
        x, _ = data
        with tf.GradientTape() as tape:
            loss = self.loss_of(self(x), self.count)
        weights = self.body.trainable_variables
        gradients = tape.gradient(loss, weights)
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        score = self.score_of(self.count)
        self.count.assign_add(1.0)
        return {self.entry: loss, "score": score}


def log_of_negative(y_pred, step):
    """Its value is NaN and its derivative is finite."""
    return tf.reduce_mean(tf.math.log(-1.0 - tf.square(y_pred)))  # cut


def square(y_pred, step):
    """A loss of which nothing is to be said."""
    return tf.reduce_mean(tf.square(y_pred - 0.3))


def root_at_zero_later(y_pred, step):
    """Its gradient is NaN from the seventh step."""
    shift = tf.where(step > 5.0, 0.0, 1.0)
    value = tf.reduce_mean(tf.square(y_pred))
    return value + tf.sqrt(0.0 * value + shift)  # cut


def trained(model, mode, epochs=1, **arguments):
    """Trains a model; returns the callback."""
    model.compile("sgd", **MODES[mode])
    callback = GradHealthCallback(every=1, **arguments)
    model.fit(
        X, Y, batch_size=2, epochs=epochs, verbose=0, callbacks=[callback]
    )
    return callback


@modes
def test_loss_under_another_name(mode):
    """The finding names the op that made the NaN, and all that is trained."""
    with pytest.warns(UserWarning):
        callback = trained(Own(log_of_negative), mode)
    (found,) = callback.report.diagnoses
    assert ("GG223", "nonfinite") == (found.code, found.kind)
    assert marked(log_of_negative) == (found.file, found.line)
    assert 4 == len(found.variables)


@modes
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_metric_is_no_loss(mode, value):
    """One that has no value is nobody's fault, however often."""
    model = Own(square, lambda step: tf.constant(value, tf.float32))
    callback = trained(model, mode, epochs=2)
    assert () == callback.report.diagnoses
    assert 8 * 2 == callback.report.num_steps


@modes
def test_bad_gradient_after_a_metric(mode):
    """To know that a metric has no value hides no later NaN."""
    score = lambda step: tf.where(step > 1.0, np.nan, 1.0)  # noqa: E731
    with pytest.warns(UserWarning):
        callback = trained(Own(root_at_zero_later, score), mode, epochs=2)
    (found,) = callback.report.diagnoses
    assert "nonfinite" == found.kind
    assert marked(root_at_zero_later) == (found.file, found.line)


@pytest.mark.parametrize("mode", ["graph", "eager"])
def test_training_stops_at_a_loss(mode):
    """`stop` is for a loss under any name."""
    with pytest.warns(UserWarning):
        callback = trained(Own(log_of_negative), mode, on_nonfinite="stop")
    assert 1 == callback.report.num_steps
