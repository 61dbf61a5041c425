"""Eager steps read tensors out for good reasons too: nothing is claimed."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fitting import MODES, NAMES, X, Y, classifier, fit, marked

HISTORY = []


def counts_labels(y_true, y_pred):
    """Reads the labels out; the cut comes after."""
    count = int(tf.reduce_sum(y_true))  # cut
    hard = tf.cast(y_pred > 0.5, tf.float32)
    return tf.reduce_sum(tf.abs(hard - y_true)) / count


def keeps_a_history(y_true, y_pred):
    """Reads the prediction out for display; the cut comes after."""
    shown = float(tf.reduce_mean(y_pred))  # cut
    HISTORY.append(shown)
    return tf.reduce_mean(tf.abs(tf.round(y_pred) - y_true))


def uses_the_value(y_true, y_pred):
    """Reads the prediction out and computes with it."""
    total = float(tf.reduce_sum(y_pred))  # cut
    weight = 2.0 * total
    return tf.reduce_mean(y_true) * weight


@pytest.mark.parametrize(
    ("loss", "certainty"),
    [
        (counts_labels, "suspected"),
        (keeps_a_history, "suspected"),
        (uses_the_value, "proved"),
    ],
)
def test_certainty(loss, certainty):
    """Only a value of the model that is computed with is the proved cause."""
    callback, _ = fit(classifier(loss, eager=True))
    (found,) = callback.report.diagnoses
    assert (marked(loss)[1], certainty) == (found.line, found.certainty)
    assert ("suspected" in str(found)) == (certainty == "suspected")


class Detached(keras.Model):
    """Leaves TensorFlow between its two layers."""

    def __init__(self):
        super().__init__()
        self.first = keras.layers.Dense(4, name="first")
        self.second = keras.layers.Dense(3, name="second")

    def call(self, inputs):
        """Goes through NumPy."""
        return self.second(self.first(inputs).numpy())  # cut


def test_only_the_missing_variables_are_named():
    """What lies after the NumPy call is trained and not listed."""
    model = Detached()
    model.compile("sgd", "mse", run_eagerly=True)
    callback, _ = fit(model)
    (found,) = callback.report.diagnoses
    assert marked(Detached.call)[1] == found.line
    assert 2 == len(found.variables)
    assert all("first" in path for path in found.variables)


def penalty(y_true, y_pred):
    """Needs the value of a gradient; healthy on its own."""
    with tf.GradientTape() as tape:
        tape.watch(y_pred)
        inner = tf.reduce_sum(tf.square(y_pred - y_true))
    return tf.reduce_mean(tf.abs(tape.gradient(inner, y_pred)))


def floor_layer():
    """Returns a layer that cuts."""
    return keras.layers.Lambda(lambda t: tf.floor(t), name="floor")  # cut


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_tape_inside_the_traced_step(eager):
    """A tape records in the scratch trace as it does in training."""
    callback, _ = fit(classifier(penalty, eager, middle=floor_layer()))
    (found,) = callback.report.diagnoses
    assert ("GG105", marked(floor_layer)[1]) == (found.code, found.line)
    assert 2 == len(found.variables)


class Dropping(keras.Model):
    """A custom step that drops what has no gradient, and says nothing."""

    def train_step(self, data):
        """Applies the gradients that are there."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(y - self(x, training=True)))
        variables = self.trainable_variables
        pairs = zip(tape.gradient(loss, variables), variables, strict=True)
        self.optimizer.apply_gradients([p for p in pairs if p[0] is not None])
        return {"loss": loss}


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_step_that_drops_missing_gradients(eager):
    """The tape was asked for them, so they are missed."""
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(4, name="hidden")(inputs)
    head = keras.layers.Dense(3, name="head")(floor_layer()(hidden))
    model = Dropping(inputs, head)
    model.compile("sgd", run_eagerly=eager)
    callback, _ = fit(model)
    (found,) = callback.report.diagnoses
    assert marked(floor_layer)[1] == found.line
    assert ("hidden/kernel", "hidden/bias") == found.variables
    statuses = [row.status for row in callback.report.variables]
    assert ["missing", "missing", "ok", "ok"] == statuses


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_one_cut_is_one_diagnosis(eager):
    """Biases without and kernels with a regulariser are one message."""
    model = classifier(
        "mse", eager, middle=floor_layer(), kernel_regularizer="l2"
    )
    callback, _ = fit(model)
    (found,) = callback.report.diagnoses
    assert 2 == len(found.variables)


def test_activity_regulariser_hides_nothing():
    """Keras' own term on the batch is a regulariser too."""
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(4, activity_regularizer="l2")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3)(floor_layer()(hidden)))
    model.compile("sgd", "mse")
    callback, _ = fit(model)
    (found,) = callback.report.diagnoses
    assert marked(floor_layer)[1] == found.line
    assert np.shape(X)[0] == np.shape(Y)[0]
