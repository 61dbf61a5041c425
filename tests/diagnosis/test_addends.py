"""Each addend of a loss has a verdict of its own, wherever the sum stands."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import (
    GradHealthCallback,
    GradientBreakError,
    check_loss,
    diagnose,
)
from tests import looping
from tests.fitting import MODES, NAMES, X, Y, classifier, fit, marked

modes = pytest.mark.parametrize("eager", MODES, ids=NAMES)
bce = keras.losses.binary_crossentropy


def hard_f1(y_true, y_pred):
    """One minus the F1 score of thresholded predictions."""
    hard = tf.cast(y_pred > 0.5, tf.float32)  # cut
    both = tf.reduce_sum(y_true * hard)
    return 1.0 - 2.0 * both / (tf.reduce_sum(y_true + hard) + 1e-7)


def levels(y_true, y_pred):
    """The distance to rounded predictions, a value for each sample."""
    return tf.reduce_mean(tf.abs(y_true - tf.round(y_pred)), -1)  # cut


def errors(y_true, y_pred):
    """The share of wrong predictions, by NumPy."""

    def count(labels, scores):
        return np.float32(np.mean(labels.argmax(-1) != scores.argmax(-1)))

    found = tf.numpy_function(count, [y_true, y_pred], tf.float32)  # cut
    return tf.reshape(found, ())


def of_halves(y_true, y_pred):
    """The sum of the issue."""
    soft = tf.reduce_mean(bce(y_true, y_pred))
    return 0.5 * hard_f1(y_true, y_pred) + 0.5 * soft


def weighted(y_true, y_pred):
    """A sum for each sample."""
    return bce(y_true, y_pred) + 10.0 * levels(y_true, y_pred)


def add_n(y_true, y_pred):
    """A sum by one op."""
    soft = tf.reduce_mean(bce(y_true, y_pred))
    return tf.add_n([hard_f1(y_true, y_pred), soft])


def mean_of_stack(y_true, y_pred):
    """A mean of several terms."""
    soft = tf.reduce_mean(bce(y_true, y_pred))
    return tf.reduce_mean(tf.stack([hard_f1(y_true, y_pred), soft]))


def divided(y_true, y_pred):
    """A sum inside of a function, divided by a number of labels."""
    return inner_sum(y_true, y_pred) / (tf.reduce_sum(y_true) + 1.0)


@tf.function
def inner_sum(y_true, y_pred):
    """Is a function of its own."""
    soft = tf.reduce_sum(bce(y_true, y_pred))
    return soft - (1.0 - hard_f1(y_true, y_pred))


def of_numpy(y_true, y_pred):
    """A term that NumPy has counted."""
    return bce(y_true, y_pred) + errors(y_true, y_pred)


class Summing(keras.losses.Loss):
    """A sum in a subclass."""

    def call(self, y_true, y_pred):
        """Returns a value for each sample."""
        return bce(y_true, y_pred) + 3.0 * levels(y_true, y_pred)


SUMS = (
    (of_halves, hard_f1, "GG102", "Greater"),
    (weighted, levels, "GG105", "Round"),
    (add_n, hard_f1, "GG102", "Greater"),
    (mean_of_stack, hard_f1, "GG102", "Greater"),
    (divided, hard_f1, "GG102", "Greater"),
    (of_numpy, errors, "GG116", "PyFunc"),
    (Summing(name="summing"), levels, "GG105", "Round"),
)
sums = pytest.mark.parametrize(
    ("loss", "line", "code", "op"),
    SUMS,
    ids=[getattr(row[0], "__name__", "subclass") for row in SUMS],
)


def softmax(loss, eager=False):
    """Returns a small classifier that ends in probabilities."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8, name="hidden")(inputs)
    outputs = keras.layers.Dense(3, "softmax", name="head")(hidden)
    model = keras.Model(inputs, outputs, name="net")
    model.compile("sgd", loss=loss, run_eagerly=eager)
    return model


def assert_dead(found, line, code, op):
    """The term is named, with its share of the loss."""
    assert (code, op, "warning") == (found.code, found.op, found.severity)
    assert marked(line) == (found.file, found.line)
    note = found.evidence["notes"][0]
    share = found.evidence["share"]
    assert f"this term is {100 * share:.0f} % of the loss" in note
    assert "and trains nothing" in note


@modes
@sums
def test_sum_in_fit(loss, line, code, op, eager):
    """One warning, at the line of the term; it stands for the jump too."""
    callback, error = fit(softmax(loss, eager))
    assert error is None
    (found,) = callback.report.diagnoses
    assert_dead(found, line, code, op)
    assert getattr(loss, "name", getattr(loss, "__name__", "")) == found.loss
    assert 4 == len(found.variables)


@sums
def test_sum_in_diagnose(loss, line, code, op):
    """So does one look."""
    (found,) = diagnose(softmax(loss), X, Y).diagnoses
    assert_dead(found, line, code, op)


@sums
def test_sum_in_check_loss(loss, line, code, op):
    """And a look at the loss alone."""
    predicted = keras.ops.softmax(X[:, :3])
    (found,) = check_loss(loss, Y, predicted).diagnoses
    assert_dead(found, line, code, op)


def test_share_of_the_loss():
    """It is the share of the value on the batch, before the step."""
    model = softmax(weighted)
    predicted = model(X)
    dead = 10.0 * float(tf.reduce_mean(levels(Y, predicted)))
    alive = float(tf.reduce_mean(bce(Y, predicted)))
    (found,) = diagnose(model, X, Y).diagnoses
    assert dead / (dead + alive) == pytest.approx(found.evidence["share"])


class Stepper(keras.Model):
    """Sums its losses in a step of its own."""

    def __init__(self):
        super().__init__(name="stepper")
        self.hidden = keras.layers.Dense(8, name="hidden")
        self.head = keras.layers.Dense(3, "softmax", name="head")

    def call(self, inputs):
        """Returns probabilities."""
        return self.head(self.hidden(inputs))

    def terms(self, y_true, y_pred):
        """Returns what the loss is the sum of."""
        soft = keras.losses.CategoricalCrossentropy()(y_true, y_pred)
        return [soft, 10.0 * hard_f1(y_true, y_pred)]

    def train_step(self, data):
        """Keras' own step, but for the loss."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = sum(self.terms(y, self(x, training=True)))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


@modes
def test_own_train_step(eager):
    """The sum of a custom step is taken apart."""
    model = Stepper()
    model.compile("sgd", run_eagerly=eager)
    callback, error = fit(model)
    assert error is None
    (found,) = callback.report.diagnoses
    assert_dead(found, hard_f1, "GG102", "Greater")
    names = [one.name for one in callback.report.losses]
    assert "hard_f1" in names
    reach = callback.report.losses[names.index("hard_f1")]
    assert not any(reach.reaches)
    assert f"line {found.line}" in reach.note
    assert reach.note in str(callback.report).replace("\n           ", " ")


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_watched_loop(mode):
    """A loop of one's own, without `fit`."""
    model = softmax("mse")
    targets = tf.constant(Y)

    def loss(_, predicted):
        soft = tf.reduce_mean(bce(targets, predicted))
        return soft + 10.0 * hard_f1(targets, predicted)

    step, _ = looping.trainer(model, loss, mode)
    health, error = looping.loop(model, step)
    assert error is None
    (found,) = health.report.diagnoses
    assert (marked(hard_f1), "GG102") == ((found.file, found.line), found.code)
    note = found.evidence["notes"][0]
    assert "of the loss" in note and "trains nothing" in note
    assert (mode == "eager") == ("share" in found.evidence)


class Counting(keras.layers.Layer):
    """Adds a loss of two terms, one of them cut."""

    def call(self, inputs):
        """Adds the mean square, and a count."""
        count = tf.reduce_mean(tf.floor(inputs))  # cut
        self.add_loss(tf.reduce_mean(tf.square(inputs)) + 5.0 * count)
        return inputs


@modes
def test_sum_in_add_loss(eager):
    """The addends of an `add_loss` are judged as well."""
    callback, _ = fit(classifier("mse", eager, middle=Counting()))
    (found,) = callback.report.diagnoses
    assert_dead(found, Counting.call, "GG105", "Floor")
    assert ("add_loss", 2) == (found.loss, len(found.variables))


@modes
def test_raised(eager):
    """It is raised as other breaks are."""
    _, error = fit(softmax(weighted, eager), on_break="raise")
    assert isinstance(error, GradientBreakError)
    assert "GG105" in str(error)


def test_no_trace_without_need(monkeypatch):
    """A compiled step is traced once more only where an op may be a cut."""
    from keras_gradguard.backend.tensorflow.tracing import evidence

    traced, kept = [], evidence.trace_step

    def trace_step(model, *rest):
        traced.append(model)
        return kept(model, *rest)

    monkeypatch.setattr(evidence, "trace_step", trace_step)
    fit(softmax("mse"))
    assert [] == traced
    model = softmax(weighted)
    fit(model)
    assert [model] == traced
    traced.clear()
    model = Stepper()
    model.compile("sgd")
    fit(model)
    assert [model] == traced


class Encoder(keras.Model):
    """A VAE in short; what it does to its code is given."""

    def __init__(self, code):
        super().__init__(name="vae")
        self.mean = keras.layers.Dense(3, name="mean")
        self.spread = keras.layers.Dense(3, name="spread")
        self.decoder = keras.layers.Dense(4, name="decoder")
        self.code = code

    def call(self, inputs):
        """Returns the reconstruction, and adds the KL divergence."""
        mean, spread = self.mean(inputs), self.spread(inputs)
        self.kl = 0.5 * tf.reduce_mean(
            tf.exp(spread) + tf.square(mean) - 1.0 - spread
        )
        noise = tf.random.normal(tf.shape(mean))
        return self.decoder(self.code(mean + tf.exp(spread / 2) * noise))

    def train_step(self, data):
        """Reconstruction and KL divergence."""
        x = data[0]
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(x - self(x, training=True)))
            loss += self.kl
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


def rounded(code):
    """No gradient comes back through this."""
    return tf.round(code)  # cut


def as_whole(code):
    """Nor through this."""
    return tf.cast(tf.cast(code, tf.int32), tf.float32)  # cut


def of_largest(code):
    """Nor through this."""
    return tf.one_hot(tf.argmax(code, -1), 3)  # cut


@modes
@pytest.mark.parametrize(
    ("code", "name"),
    [(rounded, "GG105"), (as_whole, "GG103"), (of_largest, "GG104")],
)
def test_reconstruction_never_reaches_the_encoder(code, name, eager):
    """The KL divergence trains the encoder, which hides the cut."""
    model = Encoder(code)
    model.compile("sgd", run_eagerly=eager)
    callback, error = fit(model, X, Y)
    assert error is None
    (found,) = callback.report.diagnoses
    assert (name, "warning") == (found.code, found.severity)
    assert marked(code) == (found.file, found.line)
    assert 4 == len(found.variables)
    (note, *_) = found.evidence["notes"]
    assert "its value depends on vae/mean/kernel" in note
    first, second = callback.report.losses
    assert [False] * 4 + [True] * 2 == list(first.reaches)
    assert [True] * 4 + [False] * 2 == list(second.reaches)
    assert f"line {found.line}" in first.note and second.note is None


class Student(keras.Model):
    """Learns from labels, and, the wrong way round, from a teacher."""

    def __init__(self):
        super().__init__(name="student")
        self.own = keras.layers.Dense(3, "softmax", name="own")
        self.teacher = keras.layers.Dense(3, "softmax", name="teacher")

    def call(self, inputs):
        """Returns both predictions."""
        return self.own(inputs), self.teacher(inputs)

    def train_step(self, data):
        """Stops the gradient of the student instead of the teacher."""
        x, y = data
        with tf.GradientTape() as tape:
            own, teacher = self(x, training=True)
            loss = tf.reduce_mean(bce(y, own)) + tf.reduce_mean(
                keras.losses.kl_divergence(
                    tf.stop_gradient(own),  # cut
                    teacher,
                )
            )
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


@modes
def test_stopped_on_purpose_is_shown_and_no_alarm(eager):
    """The table says which term goes round the student, and where."""
    model = Student()
    model.compile("sgd", run_eagerly=eager)
    callback, error = fit(model)
    assert error is None
    assert () == callback.report.diagnoses
    labels, distilled = callback.report.losses
    assert ((True, True, False, False), None) == (labels.reaches, labels.note)
    assert (False, False, True, True) == distilled.reaches
    line = marked(Student.train_step)[1]
    assert f"`StopGradient` in line {line}" in distilled.note
    assert "student/own/kernel" in distilled.note
