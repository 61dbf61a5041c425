"""Eager steps read tensors out for good reasons too: nothing is claimed."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradGuardLoss, check_loss, diagnose
from keras_gradguard.errors import GradientBreakError
from tests.fitting import MODES, NAMES, X, Y, classifier, fit, marked

HISTORY = []


def counts_labels(y_true, y_pred):
    """Reads the labels out; the cut comes after."""
    count = int(tf.reduce_sum(y_true))
    hard = tf.cast(y_pred > 0.5, tf.float32)  # cut
    return tf.reduce_sum(tf.abs(hard - y_true)) / count


def keeps_a_history(y_true, y_pred):
    """Reads the prediction out for display; the cut comes after."""
    shown = float(tf.reduce_mean(y_pred))
    HISTORY.append(shown)
    return tf.reduce_mean(tf.abs(tf.round(y_pred) - y_true))  # cut


def keeps_and_uses(y_true, y_pred):
    """Keeps the numbers in a list, and makes a tensor of it."""
    rows = []
    for row in y_pred:
        largest = float(tf.reduce_max(row))  # cut
        rows.append(largest)
    return tf.reduce_mean(tf.abs(tf.stack(rows) - y_true[:, 0]))


def loops(y_true, y_pred):
    """Loops over the rows; the cut is in the loop."""
    wrong = 0.0
    for label, row in zip(y_true, y_pred, strict=True):
        guess = tf.one_hot(tf.argmax(row), 3)  # cut
        wrong += tf.reduce_sum(tf.abs(guess - label))
    return wrong / len(y_pred)


def asks(y_true, y_pred):
    """Asks whether all is well; the cut comes after."""
    assert tf.reduce_all(y_pred > -100.0)
    weight = 2.0 if float(tf.reduce_mean(y_pred)) > 0.0 else 1.0
    steps = tf.cast(y_pred, tf.int32)  # cut
    return weight * tf.reduce_mean(tf.cast(steps, tf.float32) - y_true)


def wraps(y_true, y_pred):
    """Hands NumPy a tensor; eagerly that is no op."""
    count = len(y_pred)
    doubled = tf.numpy_function(lambda v: 2 * v, [y_pred], tf.float32)  # cut
    return tf.reduce_sum(tf.square(doubled - y_true)) / count


def reads_twice(y_true, y_pred):
    """Two lines take numbers out; one of them is in the loss."""
    first = float(tf.reduce_sum(y_pred))  # cut
    second = float(tf.reduce_max(y_pred))
    return tf.reduce_mean(y_true) * first * second


def uses_the_value(y_true, y_pred):
    """Reads the prediction out and computes with it."""
    total = float(tf.reduce_sum(y_pred))  # cut
    weight = 2.0 * total
    return tf.reduce_mean(y_true) * weight


def keeps_in_a_variable(y_true, y_pred):
    """Makes a variable of the prediction, which an op then takes itself."""
    kept = tf.Variable(y_pred)  # cut
    return tf.reduce_mean(tf.square(y_true - kept))


def asks_keras_for_numpy(y_true, y_pred):
    """Hands the tensor to Keras, and Keras hands it to NumPy."""
    plain = keras.ops.convert_to_numpy(y_pred)  # cut
    return keras.ops.mean(keras.ops.square(y_true - plain))


def in_columns(values):
    """Hands NumPy whatever it is given."""
    return np.array(values).T  # cut


def reads_labels_first(y_true, y_pred):
    """One line reads the labels, and then the prediction."""
    gap = in_columns(2.0 * y_true) - in_columns(y_pred)
    return tf.reduce_mean(tf.square(tf.convert_to_tensor(gap)))


@pytest.mark.parametrize(
    ("loss", "code", "certainty"),
    [
        (counts_labels, "GG102", "proved"),
        (keeps_a_history, "GG105", "proved"),
        (keeps_and_uses, "GG108", "proved"),
        (loops, "GG104", "proved"),
        (asks, "GG103", "proved"),
        (wraps, "GG101", "proved"),
        (reads_twice, "GG108", "suspected"),
        (uses_the_value, "GG108", "proved"),
        (keeps_in_a_variable, "GG118", "proved"),
        (asks_keras_for_numpy, "GG101", "proved"),
    ],
)
def test_certainty(loss, code, certainty):
    """What cuts is named, not where a trace of the step would have ended."""
    expected = (code, marked(loss)[1], certainty)
    callback, _ = fit(classifier(loss, eager=True))
    (found,) = callback.report.diagnoses
    assert expected == (found.code, found.line, found.certainty)
    assert ("suspected" in str(found)) == (certainty == "suspected")
    (found,) = diagnose(classifier(loss, eager=True), X, Y).diagnoses
    assert expected == (found.code, found.line, found.certainty)
    (found,) = check_loss(loss, Y, X[:, :3]).diagnoses
    assert expected == (found.code, found.line, found.certainty)
    model = classifier(GradGuardLoss(loss), eager=True)
    with pytest.raises(GradientBreakError) as raised:
        model.fit(X, Y, verbose=0)
    (found,) = raised.value.report.diagnoses
    assert expected == (found.code, found.line, found.certainty)


class Detached(keras.Model):
    """Leaves TensorFlow between its two layers."""

    def __init__(self):
        super().__init__()
        self.first = keras.layers.Dense(4, name="first")
        self.second = keras.layers.Dense(3, name="second")

    def call(self, inputs):
        """Goes through NumPy."""
        return self.second(self.first(inputs).numpy())  # cut


def test_one_line_reads_several_tensors():
    """The labels that it reads first hide no prediction."""
    callback, _ = fit(classifier(reads_labels_first, eager=True))
    (found,) = callback.report.diagnoses
    assert marked(in_columns)[1] == found.line
    assert found.code == "GG101"


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


class Looping(keras.Model):
    """A step of its own that goes through the rows; only eager mode can."""

    hard = False

    def train_step(self, data):
        """Adds up what each row gives."""
        x, y = data
        with tf.GradientTape() as tape:
            total = 0.0
            for row, label in zip(self(x, training=True), y, strict=True):
                total += tf.reduce_sum(tf.square(self.guess(row) - label))
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(total, variables), variables)
        return {"loss": total}

    def guess(self, row):
        """Takes the best class, or its scores."""
        return tf.one_hot(tf.argmax(row), 3) if self.hard else row  # cut


@pytest.mark.parametrize("hard", [False, True], ids=["healthy", "cut"])
def test_own_step_that_a_trace_cannot_follow(hard):
    """Where a look at it ends, the step goes on."""
    inputs = keras.Input((4,))
    model = Looping(inputs, keras.layers.Dense(3)(inputs))
    model.hard = hard
    model.compile("sgd", run_eagerly=True)
    callback, error = fit(model)
    found = [(d.code, d.line) for d in callback.report.diagnoses]
    line = marked(Looping.guess)[1]
    assert ([("GG104", line)] if hard else []) == found
    assert hard == (error is not None)


def unregistered(y_true, y_pred):
    """Has an op without a gradient function, behind a loop."""
    total = tf.add_n([tf.reduce_sum(row) for row in y_pred])
    image = tf.reshape(y_pred, (1, -1, 3, 1))
    small = tf.image.resize(image, (3, 3), method="area")  # cut
    return tf.reduce_mean(small) + total - tf.reduce_sum(y_true)


def test_unregistered_op_behind_a_loop():
    """The exception names the op, the step that ran has its line."""
    callback, error = fit(classifier(unregistered, eager=True))
    assert isinstance(error, LookupError)
    (found,) = callback.report.diagnoses
    assert ("GG107", marked(unregistered)[1]) == (found.code, found.line)
