"""Each addend of a loss has a verdict of its own, wherever the sum stands."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import (
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


def of_ranks(y_true, y_pred):
    """The ranks are the other output of an op that has a gradient."""
    return bce(y_true, y_pred) + 3.0 * ranks(y_true, y_pred)


def ranks(y_true, y_pred):
    """How far the order of the scores is from that of the labels."""
    order = keras.ops.argsort(y_pred, axis=-1)  # cut
    place = keras.ops.cast(order, "float32") - y_true
    return tf.reduce_mean(tf.square(place), axis=-1)


def of_signs(y_true, y_pred):
    """An op whose gradient is registered, and always zero."""
    return bce(y_true, y_pred) + 2.0 * signs(y_true, y_pred)


def signs(y_true, y_pred):
    """How many predictions are on the wrong side."""
    side = tf.sign(y_pred - 0.5)  # cut
    return tf.reduce_mean(tf.abs(side - tf.sign(y_true - 0.5)), -1)


def of_matches(y_true, y_pred):
    """Two cuts in a row: the one nearest to the prediction is named."""
    return bce(y_true, y_pred) + 2.0 * misses(y_true, y_pred)


def misses(y_true, y_pred):
    """The share of rounded predictions that are wrong."""
    level = tf.round(y_pred)  # cut
    return tf.reduce_mean(tf.cast(tf.not_equal(level, y_true), tf.float32), -1)


def of_calibration(y_true, y_pred):
    """A part of the term is stopped on purpose, the rest cut by accident."""
    sure = tf.stop_gradient(tf.reduce_mean(tf.abs(y_pred - 0.5), -1))
    gap = tf.abs(calibration(y_true, y_pred) - sure)
    return bce(y_true, y_pred) + 2.0 * gap


def calibration(y_true, y_pred):
    """The share of predictions on the right side."""
    hard = tf.cast(y_pred > 0.5, tf.float32)  # cut
    return 1.0 - tf.reduce_mean(tf.abs(hard - y_true), -1)


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
    (of_ranks, ranks, "GG111", "TopKV2"),
    (of_signs, signs, "GG202", "Sign"),
    (of_matches, misses, "GG105", "Round"),
    (of_calibration, calibration, "GG102", "Greater"),
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
    share = 100 * found.evidence["share"]
    figure = f"{share:.0f}" if share >= 1.0 else "less than 1"
    assert f"this term is {figure} % of the loss" in note
    assert "and trains nothing" in note
    assert "= lost: " not in str(found)


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
    # A tensor of Keras would bring its logits along.
    predicted = np.asarray(keras.ops.softmax(X[:, :3]))
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


def read_out(y_true, y_pred):
    """A term that NumPy has counted, in eager mode alone."""
    wrong = y_true.numpy().argmax(-1) != y_pred.numpy().argmax(-1)  # cut
    return bce(y_true, y_pred) + 2.0 * wrong.mean()


def weighed(y_true, y_pred):
    """NumPy makes a weight, a number of labels and a curve of the loss."""
    soft = bce(y_true, y_pred)
    weight = 1.0 + 0.1 * float(tf.reduce_mean(soft))
    history.append(weight)
    return weight * soft + 0.1 * float(tf.reduce_mean(y_true))


history = []


def test_numbers_that_left_tensorflow():
    """A term that changes with the weights, and is a constant to the tape."""
    callback, error = fit(softmax(read_out, True))
    assert error is None
    (found,) = [d for d in callback.report.diagnoses if d.severity != "note"]
    assert ("untraceable", "warning") == (found.kind, found.severity)
    assert marked(read_out) == (found.file, found.line)
    assert "% of the loss and trains nothing" in found.evidence["notes"][0]
    assert 4 == len(found.variables)
    found = diagnose(softmax(read_out, True), X, Y).diagnoses
    assert marked(read_out)[1] in [d.line for d in found]


def test_numbers_that_are_a_weight():
    """What only weighs a term with a gradient is no term of its own."""
    callback, error = fit(softmax(weighed, True))
    assert error is None
    assert {"note"} >= {d.severity for d in callback.report.diagnoses}


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
    assert "= hits: " in str(found) and "= lost: " not in str(found)
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
    from keras_gradguard.advice import patches
    from keras_gradguard.backend.tensorflow.tracing import evidence

    traced, kept = [], evidence.trace_step

    def trace_step(model, *rest):
        traced.append(model)
        return kept(model, *rest)

    monkeypatch.setattr(evidence, "trace_step", trace_step)
    monkeypatch.setattr(patches, "MOST_TRIALS", 0)
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


class Healthy(keras.Model):
    """A training with a sum that must stay silent.

    Attributes:
        parts: The layers that it has.
        own: And the weights of its own, with their shapes.
    """

    parts = ("first", "second")
    own = ()

    def __init__(self):
        super().__init__(name="healthy")
        for name in self.parts:
            setattr(self, name, keras.layers.Dense(3, name=name))
        for name, shape in self.own:
            weight = self.add_weight(shape=shape, name=name)
            weight.assign(keras.random.normal(shape, seed=1))
            setattr(self, name, weight)
        self.fixed = keras.layers.Dense(3, trainable=False, name="fixed")

    def build(self, shape):
        """Makes what the loss reads."""
        x, y = tf.zeros((16, shape[-1])), tf.zeros((16, 3))
        self.fixed(x)
        self.loss_of(x, y)

    def heads(self, inputs):
        """Returns both predictions."""
        hidden = self.first(inputs)
        return self.second(hidden), self.other(hidden)

    def train_step(self, data):
        """Trains all variables."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.loss_of(x, y)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


BOTH = ("first", "second", "other")


def mean_square(values):
    """Shortens what follows."""
    return tf.reduce_mean(tf.square(values))


def cosine(one, two):
    """The negative similarity of SimSiam and BYOL, half of it detached."""
    two = tf.stop_gradient(two)
    return -tf.reduce_mean(
        tf.reduce_sum(tf.nn.l2_normalize(one, -1) * tf.nn.l2_normalize(two, -1))
    )


class VectorQuantized(Healthy):
    """VQ-VAE: straight through, with codebook and commitment."""

    own = (("codes", (5, 3)),)

    def loss_of(self, x, y):
        """Three terms, two of them stopped at one side."""
        hidden = self.first(x)
        gaps = hidden[:, None] - self.codes[None]
        nearest = tf.argmin(tf.reduce_sum(tf.square(gaps), -1), -1)
        code = tf.gather(self.codes, nearest)
        codebook = mean_square(tf.stop_gradient(hidden) - code)
        commitment = mean_square(hidden - tf.stop_gradient(code))
        passed = hidden + tf.stop_gradient(code - hidden)
        return (
            mean_square(self.second(passed) - y) + codebook + 0.25 * commitment
        )


class SimSiam(Healthy):
    """Both views predict the other one."""

    def loss_of(self, x, y):
        """A half for each."""
        del y
        one = self.first(x)
        two = self.first(x + tf.random.normal(tf.shape(x)))
        return 0.5 * cosine(self.second(one), two) + 0.5 * cosine(
            self.second(two), one
        )


class Bootstrapped(Healthy):
    """BYOL: the target is a network that nobody trains."""

    parts = BOTH

    def loss_of(self, x, y):
        """Two views, and a classifier at the side."""
        one, two = x, x[:, ::-1]
        loss = cosine(self.second(self.first(one)), self.fixed(two))
        loss += cosine(self.second(self.first(two)), self.fixed(one))
        aside = self.other(tf.stop_gradient(self.first(x)))
        return loss + mean_square(aside - y)


class TargetNetwork(Healthy):
    """Double Q-learning: its own argmax chooses in the target network."""

    def loss_of(self, x, y):
        """The TD error, and a conservative term."""
        values = self.second(self.first(x))
        best = tf.argmax(self.second(self.first(x[:, ::-1])), -1)
        target = y[:, 0] + 0.9 * tf.gather(
            self.fixed(x), best, axis=1, batch_dims=1
        )
        error = mean_square(tf.stop_gradient(target) - values[:, 0])
        return error + 0.1 * tf.reduce_mean(
            tf.reduce_logsumexp(values, -1) - values[:, 1]
        )


class ProximalPolicy(Healthy):
    """PPO: clipped ratio, value loss, entropy bonus, and a KL that is read."""

    parts = BOTH

    def loss_of(self, x, y):
        """Ratio to the policy of before, which is this one, detached."""
        hidden = self.first(x)
        log = tf.nn.log_softmax(self.second(hidden))
        chosen = tf.reduce_sum(log * y, -1)
        ratio = tf.exp(chosen - tf.stop_gradient(chosen))
        value = self.other(hidden)[:, 0]
        gain = tf.stop_gradient(x[:, 0] - value)
        clipped = tf.clip_by_value(ratio, 0.8, 1.2)
        policy = -tf.reduce_mean(tf.minimum(ratio * gain, clipped * gain))
        entropy = -tf.reduce_mean(tf.reduce_sum(tf.exp(log) * log, -1))
        outside = tf.cast(tf.abs(ratio - 1.0) > 0.2, tf.float32)
        logged = 0.0 * tf.reduce_mean(outside)
        return (
            policy
            + 0.5 * mean_square(x[:, 1] - value)
            - 0.01 * entropy
            + logged
        )


class GroupRelative(Healthy):
    """GRPO: ratio of itself detached, and a KL to a reference."""

    def loss_of(self, x, y):
        """The estimate of the KL divergence that is never negative."""
        log = tf.nn.log_softmax(self.second(self.first(x)))
        chosen = tf.reduce_sum(log * y, -1)
        fixed = tf.reduce_sum(tf.nn.log_softmax(self.fixed(x)) * y, -1)
        ratio = tf.exp(chosen - tf.stop_gradient(chosen))
        gain = (x[:, 0] - tf.reduce_mean(x[:, 0])) / tf.math.reduce_std(x[:, 0])
        gap = fixed - chosen
        return -tf.reduce_mean(ratio * gain) + 0.04 * tf.reduce_mean(
            tf.exp(gap) - gap - 1.0
        )


class Matched(Healthy):
    """DETR: both heads choose the match that each is compared by."""

    parts = BOTH

    def loss_of(self, x, y):
        """Classes and boxes of the cheapest pairs."""
        classes, boxes = self.heads(x)
        cost = tf.reduce_sum(tf.abs(boxes[:, None] - y[None]), -1)
        cost -= tf.matmul(tf.nn.softmax(classes), y, transpose_b=True)
        match = tf.numpy_function(self.pairs, [cost], tf.int64)
        target = tf.gather(y, tf.reshape(match, (16,)))
        nearest = tf.gather(y, tf.argmin(cost, axis=1))
        near = tf.cast(tf.reduce_min(cost, 1) < 1.0, tf.float32)[:, None]
        return (
            tf.reduce_mean(
                tf.nn.softmax_cross_entropy_with_logits(target, classes)
            )
            + tf.reduce_mean(tf.abs(boxes - target))
            + tf.reduce_sum(near * tf.square(boxes - nearest))
            / (tf.reduce_sum(near) + 1.0)
        )

    @staticmethod
    def pairs(cost):
        """The best row left for each column, in turns."""
        cost, found = cost.copy(), []
        for row in range(len(cost)):
            found.append(cost[row].argmin())
            cost[:, found[-1]] = np.inf
        return np.array(found, np.int64)


class Masked(Healthy):
    """Masks that predictions choose, detached or not, and counts of them."""

    parts = BOTH

    def loss_of(self, x, y):
        """One head decides where the other one learns."""
        one, two = self.heads(x)
        sure = tf.cast(tf.nn.sigmoid(two) > 0.5, tf.float32)
        hard = tf.stop_gradient(tf.cast(tf.abs(one - y) > 1.0, tf.float32))
        small = tf.cast(tf.abs(two - y) < 1.0, tf.float32)
        gap = tf.abs(two - y)
        # Huber's loss, written out with masks.
        huber = (
            small * 0.5 * tf.square(gap)
            + (1.0 - small) * gap
            - (1.0 - small) * 0.5
        )
        return (
            tf.reduce_sum(sure * tf.square(one - y))
            / (tf.reduce_sum(sure) + 1e-6)
            + tf.reduce_mean((1.0 + hard) * tf.square(one))
            + tf.reduce_mean(huber)
            + tf.stop_gradient(tf.reduce_mean(sure))
        )


class Uncertain(Healthy):
    """Weights of the terms are learned, detached, or both."""

    parts = BOTH
    own = (("free", (2,)),)

    def loss_of(self, x, y):
        """Kendall's weights, and losses scaled to the same size."""
        one, two = self.heads(x)
        first, second = mean_square(one - y), mean_square(two - x[:, :3])
        loss = tf.exp(-self.free[0]) * first + tf.exp(-self.free[1]) * second
        loss += tf.reduce_sum(self.free)
        loss += tf.stop_gradient(first / (second + 1e-6)) * second
        return loss + first / tf.stop_gradient(first)


class Logged(Healthy):
    """What is only to be read is multiplied by nothing, or stopped."""

    parts = BOTH

    def loss_of(self, x, y):
        """Metrics ride along, as do terms of labels and of lengths."""
        one, two = self.heads(x)
        right = tf.cast(tf.argmax(one, -1) == tf.argmax(y, -1), tf.float32)
        weight = tf.constant([0.0, 1.0])
        terms = tf.stack([tf.reduce_mean(right), mean_square(one - y)])
        labels = tf.cast(tf.reduce_sum(tf.round(y)), tf.float32)
        return (
            tf.reduce_sum(weight * terms)
            + 0.0 * tf.reduce_mean(tf.round(two))
            + mean_square(two)
            + labels
            + tf.cast(tf.size(one), tf.float32)
            + tf.stop_gradient(tf.reduce_mean(right))
        )


class Focal(Healthy):
    """Focal weights, detached, with smoothed labels."""

    parts = BOTH

    def loss_of(self, x, y):
        """Two auxiliary heads."""
        one, two = map(tf.nn.softmax, self.heads(x))
        weight = tf.stop_gradient(tf.pow(1.0 - one, 2.0))
        smooth = 0.9 * y + 0.1 / 3.0
        focal = -tf.reduce_mean(weight * y * tf.math.log(one + 1e-7))
        by_hand = -tf.reduce_mean(
            y * tf.math.log(two + 1e-7)
            + (1.0 - y) * tf.math.log(1.0 - two + 1e-7)
        )
        aside = keras.losses.CategoricalCrossentropy()(smooth, one)
        return focal + 0.3 * by_hand + 0.1 * aside


class Variational(Healthy):
    """A VAE as the guide has it, its weight of the KL term annealed."""

    warm = tf.Variable(0, trainable=False)
    parts = BOTH
    own = (("codes", (5, 3)),)

    def loss_of(self, x, y):
        """Reconstruction and KL."""
        mean, spread = self.heads(x)
        code = mean + tf.exp(0.5 * spread) * tf.random.normal(tf.shape(mean))
        rebuilt = tf.matmul(code, self.codes, transpose_b=True)
        kl = -0.5 * (1 + spread - tf.square(mean) - tf.exp(spread))
        kl = tf.reduce_mean(tf.reduce_sum(kl, axis=1))
        beta = tf.cast(self.warm, tf.float32) / 9.0
        return mean_square(rebuilt[:, :4] - x) + beta * kl


class Critic(Healthy):
    """WGAN-GP: a penalty on the slope, by a tape inside."""

    def loss_of(self, x, y):
        """Two means and the penalty."""
        del y
        with tf.GradientTape() as inner:
            inner.watch(x)
            score = self.second(tf.nn.elu(self.first(x)))
        slope = tf.norm(inner.gradient(score, x) + 1e-6, axis=1)
        fake = self.second(self.first(tf.random.normal(tf.shape(x))))
        return (
            tf.reduce_mean(fake)
            - tf.reduce_mean(score)
            + 10.0 * mean_square(slope - 1.0)
        )


class Routed(Healthy):
    """A mixture of experts: hard routes, a gate and a balance."""

    parts = BOTH

    def loss_of(self, x, y):
        """Switch Transformer's auxiliary loss."""
        gates = tf.nn.softmax(self.first(x))
        route = tf.one_hot(tf.argmax(gates, -1), 3)
        gate = tf.reduce_max(gates, -1, keepdims=True)
        one, two = self.second(gates), self.other(gates)
        made = gate * (route[:, :1] * one + route[:, 1:2] * two)
        shares = tf.reduce_mean(route, 0)
        balance = 3.0 * tf.reduce_sum(shares * tf.reduce_mean(gates, 0))
        return mean_square(made - y) + 0.01 * balance


class Quantized(Healthy):
    """Straight-through estimators: by a stop, and by a custom gradient."""

    parts = BOTH

    def loss_of(self, x, y):
        """Rounded values on the way, and a rate."""
        hidden = self.first(x)
        rounded = hidden + tf.stop_gradient(tf.round(hidden) - hidden)
        return (
            mean_square(self.second(rounded) - y)
            + mean_square(self.other(passed_round(hidden)) - y)
            + 0.1 * tf.reduce_mean(passed_round(hidden))
            + tf.reduce_mean(hidden - tf.floor(hidden))
        )


@tf.custom_gradient
def passed_round(values):
    """Rounds, and passes the gradient on."""
    return tf.round(values), lambda gradient: gradient


class Sampled(Healthy):
    """REINFORCE: the sample has no gradient, and the reward is no loss."""

    parts = BOTH

    def loss_of(self, x, y):
        """With a baseline, and an entropy bonus."""
        logits, value = self.heads(x)
        drawn = tf.random.categorical(logits, 1)[:, 0]
        reward = tf.gather(y, drawn, axis=1, batch_dims=1)
        log = tf.gather(tf.nn.log_softmax(logits), drawn, axis=1, batch_dims=1)
        gain = tf.stop_gradient(reward - value[:, 0])
        probability = tf.nn.softmax(logits)
        entropy = -tf.reduce_sum(probability * tf.nn.log_softmax(logits), -1)
        return (
            -tf.reduce_mean(log * gain)
            + 0.5 * mean_square(reward - value[:, 0])
            - 0.01 * tf.reduce_mean(entropy)
        )


class Alternating(Healthy):
    """Two losses of one sum, each for variables of its own."""

    parts = BOTH

    def loss_of(self, x, y):
        """Builds the layers."""
        return mean_square(self.second(self.first(x) + self.other(x)) - y)

    def train_step(self, data):
        """Adversaries: one tape for each."""
        x, y = data
        with tf.GradientTape(persistent=True) as tape:
            fake, real = self.first(x), self.other(x)
            generator = -tf.reduce_mean(self.second(fake)) + mean_square(
                fake - y
            )
            critic = (
                tf.reduce_mean(self.second(tf.stop_gradient(fake)))
                - tf.reduce_mean(self.second(real))
                + 0.1 * mean_square(self.second(real))
            )
        made = self.first.trainable_variables + self.other.trainable_variables
        judging = self.second.trainable_variables
        gradients = tape.gradient(generator, made[:2])
        gradients += tape.gradient(critic, made[2:])
        gradients += tape.gradient(critic, judging)
        self.optimizer.apply(gradients, made + judging)
        return {"loss": generator}


HEALTHY = (
    VectorQuantized,
    SimSiam,
    Bootstrapped,
    TargetNetwork,
    ProximalPolicy,
    GroupRelative,
    Matched,
    Masked,
    Uncertain,
    Logged,
    Focal,
    Variational,
    Critic,
    Routed,
    Quantized,
    Sampled,
    Alternating,
)


@modes
@pytest.mark.parametrize("case", HEALTHY, ids=lambda case: case.__name__)
def test_healthy_sum_is_silent(case, eager):
    """No error, no warning, no note: in `fit`, and in `diagnose`."""
    keras.utils.set_random_seed(5)
    model = case()
    model.build(X.shape)
    model.compile("adam", run_eagerly=eager)
    callback, error = fit(model)
    assert error is None
    assert [] == [(d.code, d.line) for d in callback.report.diagnoses]
    if not eager:
        found = diagnose(model, X, Y).diagnoses
        assert [] == [(d.code, d.line) for d in found]
