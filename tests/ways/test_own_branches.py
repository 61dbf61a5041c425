"""Steps of a user's own whose update sits in a branch or in a function."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback, diagnose
from tests.fitting import MODES, NAMES, X, Y

SEED = 3


class Branching(keras.Model):
    """Makes its update in a branch that is taken for some batches.

    Args:
        taken: Says of the loss and the number of the step whether it is.
    """

    def __init__(self, taken):
        super().__init__()
        self.taken = taken
        self.head = keras.layers.Dense(3)
        self.seen = tf.Variable(0, trainable=False)

    def build(self, shape):
        self.head.build(shape)
        self.built = True

    def call(self, x):
        return self.head(x)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(y - self(x)))
        loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(loss, self.trainable_variables)

        def update():
            pairs = zip(gradients, self.trainable_variables, strict=True)
            self.optimizer.apply_gradients(pairs)
            return tf.constant(0)

        is_taken = self.taken(loss, self.seen)
        tf.cond(is_taken, update, lambda: tf.constant(0))
        self.seen.assign_add(1)
        return {"mse": loss}


def trained(model, x=X, **arguments):
    """Trains a model by itself and with the guard; returns the callback."""
    weights, callback = [], GradHealthCallback(every=1, **arguments)
    for callbacks in ([], [callback]):
        keras.utils.set_random_seed(SEED)
        own = model()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            history = own.fit(
                x,
                Y,
                batch_size=4,
                shuffle=False,
                verbose=0,
                callbacks=callbacks,
            )
        weights.append(own.get_weights())
    for bare, guarded in zip(*weights, strict=True):
        np.testing.assert_array_equal(bare, guarded)
    return callback, history.history


def branching(taken, eager=False):
    """Returns what makes such a model, compiled."""

    def make():
        model = Branching(taken)
        model.build((None, 4))
        model.compile(keras.optimizers.SGD(0.1), run_eagerly=eager)
        return model

    return make


def test_loss_is_bad_and_nothing_applied():
    """The step has its number, though its update was not made."""
    x = X.copy()
    x[9] = np.nan
    callback, _ = trained(branching(lambda loss, _: tf.math.is_finite(loss)), x)
    (found,) = callback.report.diagnoses
    assert ("nonfinite", 2) == (found.kind, found.step)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_mean_norm_of_the_updates_there_are(eager):
    """A step without an update is no norm of zero."""
    every_other = branching(lambda _, seen: tf.equal(seen % 2, 0), eager)
    _, history = trained(every_other, log_norm=True)
    norms = []
    keras.utils.set_random_seed(SEED)
    model = every_other()
    for number in range(4):
        x, y = (part[4 * number : 4 * number + 4] for part in (X, Y))
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(y - model(x)))
        variables = model.trainable_variables
        gradients = tape.gradient(loss, variables)
        if number % 2 == 0:
            norms.append(float(tf.linalg.global_norm(gradients)))
            model.optimizer.apply(gradients, variables)
    (found,) = history["grad_norm"]
    assert np.isclose(np.mean(norms), found, rtol=1e-5)


class Compiled(keras.Model):
    """Has XLA compile its update, and nothing else."""

    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(5, activation="relu")
        self.head = keras.layers.Dense(3)

    def build(self, shape):
        self.hidden.build(shape)
        self.head.build((None, 5))
        self.built = True

    def call(self, x):
        return self.head(self.hidden(x))

    def train_step(self, data):
        @tf.function(jit_compile=True)
        def update(x, y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(y - self(x)))
            variables = self.trainable_variables
            gradients = tape.gradient(loss, variables)
            self.optimizer.apply(gradients, variables)
            return loss

        return {"mse": update(*data)}


def test_part_that_is_compiled():
    """XLA does not know all the ops that measure a step elsewhere."""

    def make():
        model = Compiled()
        model.build((None, 4))
        model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
        return model

    callback, _ = trained(make)
    assert {"ok"} == {row.status for row in callback.report.variables}


class Arrays(Branching):
    """Hands its optimizer arrays, as an eager step may."""

    def train_step(self, data):
        x, y = data
        error = self(x) - y
        slope = 2 * tf.linalg.matmul(x, error, transpose_a=True) / y.shape[0]
        gradients = [slope.numpy(), tf.reduce_mean(2 * error, axis=0).numpy()]
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"mse": tf.reduce_mean(tf.square(error))}


def test_gradients_that_are_arrays():
    """They are measured like tensors."""

    def make():
        model = Arrays(None)
        model.build((None, 4))
        model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
        return model

    callback, _ = trained(make)
    assert {"ok"} == {row.status for row in callback.report.variables}


def test_ever_other_updates_take_no_room():
    """What a step made long ago is forgotten."""
    every = [(n, m) for n in range(9) for m in range(9)]

    class Many(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = [
                self.add_weight(shape=(2,), initializer="ones", name=f"p{n}")
                for n in range(9)
            ]
            self.number = 0

        def call(self, x):
            return x

        def train_step(self, data):
            parts = [self.parts[n] for n in set(every[self.number % 81])]
            self.number += 1
            self.optimizer.apply([tf.ones([2]) for _ in parts], parts)
            return {"mse": tf.constant(0.0)}

    model = Many()
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    model.optimizer.build(model.parts)
    callback, sizes = GradHealthCallback(every=1), []
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda *_, **__: sizes.append(
            len(list(callback._monitor._hook.probe.captures))
        )
    )
    x = np.ones((81, 2), "float32")
    model.fit(x, batch_size=1, verbose=0, callbacks=[callback, look])
    assert 64 >= max(sizes) > 40


class Noting(Branching):
    """Notes what it did in Python, and averages its weights."""

    def __init__(self):
        super().__init__(lambda loss, _: loss < 1e9)
        self.number, self.last = 0, None
        self.heard, self.named = [], {"last": 0.0}
        self.mean = tf.Variable(tf.zeros([4, 3]), trainable=False)

    def train_step(self, data):
        self.number += 1
        logs = super().train_step(data)
        self.last = logs["mse"]
        self.heard.append(self.number)
        self.named["last"] = self.number
        self.mean.assign(0.9 * self.mean + 0.1 * self.head.kernel)
        return logs


def test_what_a_step_notes():
    """A look at the step leaves no note: it is as in bare Keras."""
    models = []

    def make():
        model = Noting()
        model.build((None, 4))
        model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
        models.append(model)
        return model

    trained(make)
    bare, guarded = models
    assert 4 == bare.number == guarded.number == guarded.named["last"]
    assert [1, 2, 3, 4] == list(guarded.heard)
    assert float(bare.last) == float(guarded.last)
    np.testing.assert_array_equal(bare.mean, guarded.mean)
    before = guarded.mean.numpy()
    diagnose(guarded, X, Y)
    np.testing.assert_array_equal(before, guarded.mean)
    assert 4 == guarded.number
