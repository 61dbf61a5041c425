"""Trainings that diverge are told as that, and what does not is left alone."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback, watch
from tests.fitting import MODES, NAMES, marked
from tests.plain import alone


@pytest.fixture(autouse=True)
def _without_other_tests():
    """The code of another test may have made such a layer, too."""
    with alone(sys.modules[__name__]):
        yield


_generator = np.random.default_rng(5)
X = _generator.normal(size=(160, 4)).astype("float32")
Y = X @ np.array([[1.0], [2.0], [-1.0], [0.5]], "float32")
SCALE, RATE = "scale inputs and targets", "lower the learning rate"
MEAN = "take the mean over the batch, not the sum"
CLIP = "clip the norm of all gradients together"
RADIUS = "initialise the recurrent matrix with a spectral radius of 1"

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def regression(optimizer, loss="mse", activation="tanh", **compiled):
    """Returns a compiled model of two layers."""
    keras.utils.set_random_seed(1)
    hidden = keras.layers.Dense(8, activation=activation, name="hidden_units")
    head = keras.layers.Dense(1, name="head_units")
    model = keras.Sequential([keras.Input((4,)), hidden, head], name="net")
    model.compile(optimizer, loss, **compiled)
    return model


def sum_of_squares(y_true, y_pred):
    """Longer by the size of the batch."""
    return tf.reduce_sum(tf.square(y_true - y_pred))


def recurrent(optimizer):
    """Returns a recurrent model that doubles its state in each of 30 steps."""
    keras.utils.set_random_seed(1)
    wide = keras.initializers.Identity(2.0)
    layers = [
        keras.Input((30, 4)),
        keras.layers.SimpleRNN(  # cut
            4, activation=None, recurrent_initializer=wide, name="memory"
        ),
        keras.layers.Dense(1, name="end"),
    ]
    model = keras.Sequential(layers, name="net")
    model.compile(optimizer, "mse")
    return model


def guarded(model, x=X, y=Y, epochs=6, every=10, **arguments):
    """Trains a model in batches of 16 and returns the diagnoses."""
    callbacks = arguments.pop("callbacks", [])
    callback = GradHealthCallback(every=every, **arguments)
    model.fit(
        x,
        y,
        epochs=epochs,
        batch_size=16,
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks, callback],
    )
    return callback.report.diagnoses


def told(found):
    """The code and the remedies of the one diagnosis."""
    (diagnosis,) = found
    assert "exploding" == diagnosis.kind
    return diagnosis.code, [item.text for item in diagnosis.help]


SGD = keras.optimizers.SGD


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_rate_that_is_too_large(eager):
    """All variables, since the first step; nothing is said of the scale."""
    found = guarded(regression(SGD(3.0), run_eagerly=eager))
    assert ("GG232", [RATE]) == told(found)
    assert 4 == len(found[0].variables)
    assert "error" == found[0].severity
    assert 0 == found[0].evidence["since_step"]
    assert found[0].evidence["weights_grew"] > 1e6
    notes = " ".join(found[0].evidence["notes"])
    assert "their gradient norm grew from" in notes
    assert "in the end `S" in notes


@pytest.mark.parametrize(
    "compiled",
    [{"jit_compile": True}, {"steps_per_execution": 5}],
    ids=["xla", "several steps"],
)
def test_ways_to_compile(compiled):
    """The bad step is kept in each of them."""
    model = regression(SGD(3.0), **compiled)
    assert ("GG232", [RATE]) == told(guarded(model))


@pytest.mark.parametrize("action", ["skip", "stop"])
def test_what_is_done_about_it(action):
    """The weights stay finite, and the cause is the same."""
    model = regression(SGD(3.0))
    (found,) = guarded(model, on_nonfinite=action)[:1]
    assert "GG232" == found.code
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_remedies_follow_the_facts():
    """Large data, a sum, and what Adam does not do."""
    found = guarded(regression(SGD(0.01), activation=None), X * 1e3, Y * 1e6)
    assert ("GG232", [SCALE, RATE]) == told(found)
    model = regression(SGD(0.05), sum_of_squares, activation=None)
    assert ("GG232", [MEAN]) == told(guarded(model))


def test_recurrent_matrix():
    """The layer, its radius, and not the learning rate alone."""
    x = np.repeat(X[:, None], 30, axis=1)
    found = guarded(recurrent(SGD(0.01)), x)
    assert ("GG232", [RADIUS, CLIP]) == told(found)
    assert marked(recurrent) == (found[0].file, found[0].line)
    assert 2.0 == pytest.approx(found[0].evidence["radius"])


def test_late_divergence_knows_its_step():
    """A rate that is raised in epoch 3, which is step 30."""
    raised = keras.callbacks.LearningRateScheduler(
        lambda epoch: 0.01 if epoch < 3 else 3.0
    )
    found = guarded(regression(SGD(0.01)), every=5, callbacks=[raised])
    assert "GG232" == told(found)[0]
    assert found[0].evidence["since_step"] in range(20, 36)


class Adversarial(keras.Model):
    """A critic without bound, and a generator behind it."""

    def __init__(self, penalty=0.0):
        super().__init__(name="gan")
        keras.utils.set_random_seed(2)
        self.penalty = penalty
        dense = keras.layers.Dense
        self.generator = keras.Sequential(
            [keras.Input((4,)), dense(4, name="made")], name="generator"
        )
        self.critic = keras.Sequential(
            [keras.Input((4,)), dense(8, name="seen"), dense(1, name="scored")],
            name="critic",
        )

    def compile(self, critic_optimizer, generator_optimizer, **arguments):
        """Takes an optimizer for each of the two."""
        super().compile(**arguments)
        self.critic_optimizer = critic_optimizer
        self.generator_optimizer = generator_optimizer

    def call(self, noise):
        """Makes a batch of noise."""
        return self.generator(noise)

    def train_step(self, data):
        """Trains one after the other."""
        real = data[0]
        with tf.GradientTape() as tape:
            made = self.critic(self.generator(real[:, ::-1]))
            seen = self.critic(real)
            loss = tf.reduce_mean(made) - tf.reduce_mean(seen)  # cut
            if self.penalty:
                loss += self.penalty * tf.reduce_mean(made**2 + seen**2)
        weights = self.critic.trainable_variables
        slopes = tape.gradient(loss, weights)
        self.critic_optimizer.apply_gradients(zip(slopes, weights, strict=True))
        with tf.GradientTape() as tape:
            score = self.critic(self.generator(real[:, ::-1]))
            generated = -tf.reduce_mean(score)
        weights = self.generator.trainable_variables
        slopes = tape.gradient(generated, weights)
        optimizer = self.generator_optimizer
        optimizer.apply_gradients(zip(slopes, weights, strict=True))
        return {"critic": loss}


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_critic_leads_and_not_the_generator(eager):
    """The line of the critic's loss, before anything overflows."""
    model = Adversarial()
    model.compile(SGD(0.05), SGD(1e-9), run_eagerly=eager)
    found = guarded(model, X + 3.0, epochs=12, every=1)
    assert "GG234" == told(found)[0]
    assert marked(Adversarial.train_step) == (found[0].file, found[0].line)
    assert all(path.startswith("critic/") for path in found[0].variables)
    # The biases cancel.
    assert 2 == len(found[0].variables)


def test_critic_with_a_bound_is_healthy():
    """Its loss grows for a while, and its weights with it."""
    model = Adversarial(penalty=0.05)
    model.compile(SGD(0.01), SGD(1e-3))
    assert () == guarded(model, X + 3.0, epochs=20, every=1)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_loop_of_ones_own(mode):
    """The weights are those that the step has read."""
    model = regression("sgd")
    optimizer = SGD(3.0)

    def step(x, y):
        with tf.GradientTape() as tape:
            error = tf.square(y - model(x, training=True))
            loss = tf.reduce_mean(error)
        weights = model.trainable_variables
        slopes = tape.gradient(loss, weights)
        optimizer.apply_gradients(zip(slopes, weights, strict=True))

    if mode == "graph":
        step = tf.function(step)
    with watch(model, every=5) as guard:
        for number in range(40):
            begin = 16 * (number % 10)
            step(X[begin : begin + 16], Y[begin : begin + 16])
    code, _ = told(guard.report.diagnoses)
    assert "GG232" == code


def test_large_and_stable_gradients_are_healthy():
    """A matter of units."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(SGD(0.05), "mse")
    assert () == guarded(model, X, Y * 1e9, epochs=20, every=1)


def test_warm_up_is_healthy():
    """A rate that grows a hundredfold, and gradients that do as well."""
    warm = keras.callbacks.LearningRateScheduler(
        lambda epoch: 1e-4 * 100 ** min(1.0, epoch / 5)
    )
    model = regression(SGD(1e-4))
    assert () == guarded(model, epochs=12, every=1, callbacks=[warm])


def test_spike_that_recovers_is_healthy():
    """One batch with rows that are a thousand times as large."""
    x, y = np.tile(X, (3, 1)), np.tile(Y, (3, 1))
    x[240:256] *= 1e3
    model = regression(keras.optimizers.Adam(0.01))
    assert () == guarded(model, x, y, epochs=3, every=1)


def test_weights_that_begin_at_nothing_are_healthy():
    """They grow by any factor, and the gradient of the others with them."""
    model = regression(SGD(0.05), activation=None)
    for weight in model.trainable_variables:
        weight.assign(weight * 1e-3)
    assert () == guarded(model, epochs=20, every=1)


def logarithm(y_true, y_pred):
    """A logarithm of zero."""
    gap = tf.square(y_true - y_pred)
    return tf.reduce_mean(gap + 0.0 * tf.math.log(tf.abs(y_true)))  # cut


def exponential(y_true, y_pred):
    """An exponential that overflows."""
    gap = tf.square(y_true - y_pred)
    return tf.reduce_mean(gap + 0.0 * tf.exp(gap))  # cut


def squared(y_true, y_pred):
    """A square that overflows for a target that is too large."""
    return tf.reduce_mean(tf.square(y_true - y_pred))  # cut


def nothing_of_infinity(y_true, y_pred):
    """0 * Inf, where a target is zero."""
    gap = tf.square(y_true - y_pred)
    far = tf.where(y_true == 0.0, np.inf, 0.0)
    return tf.reduce_mean(gap + y_true * far)  # cut


@pytest.mark.parametrize(
    "loss, last, code",
    [
        (logarithm, 0.0, "GG223"),
        (exponential, 1e3, "GG225"),
        (squared, 1e30, "GG225"),
        (nothing_of_infinity, 0.0, "GG225"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_local_cause_keeps_its_line(loss, last, code):
    """Though the weights have grown a hundredfold until then."""
    x, y = np.tile(X, (3, 1)), np.tile(Y, (3, 1))
    y[-1] = last
    model = regression(SGD(0.05), loss, activation=None)
    for weight in model.trainable_variables:
        weight.assign(weight * 1e-2)
    (found,) = guarded(model, x, y, epochs=1)
    assert (code, "nonfinite") == (found.code, found.kind)
    assert marked(loss) == (found.file, found.line)


def too_large_a_factor(y_true, y_pred):
    """Adam squares its gradient, which is finite, if a target is near 7."""
    factor = tf.where(tf.reduce_max(y_true) > 6.9, 1e21, 1.0)
    return factor * tf.reduce_mean(tf.square(y_true - y_pred))  # cut


def test_factor_that_overflows_in_the_optimizer_keeps_its_line():
    """The weights have grown, and would be as bad if they had not."""
    y = np.clip(Y, -6.0, 6.0)
    y[-1] = 7.0
    adam = keras.optimizers.Adam(0.05)
    model = regression(adam, too_large_a_factor, activation=None)
    for weight in model.trainable_variables:
        weight.assign(weight * 1e-2)
    x, y = np.tile(X, (3, 1)), np.concatenate([np.clip(y, -6, 6)] * 2 + [y])
    (found,) = guarded(model, x, y, epochs=1, on_nonfinite="stop")
    assert ("GG233", "nonfinite") == (found.code, found.kind)
    assert marked(too_large_a_factor) == (found.file, found.line)
