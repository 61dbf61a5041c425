"""Steps of a user's own that call `tf.function`s."""

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback, diagnose
from tests.fitting import MODES, NAMES, X, Y
from tests.ways.alike import (
    alike,
    fitting,
    norms_of,
    one_batch,
    same_norms,
    state,
    trained,
)

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "adam": lambda: keras.optimizers.Adam(0.01),
}


class Inside(keras.Model):
    """Its update is a `tf.function`."""

    def __init__(self, is_random=False):
        super().__init__()
        middle = []
        if is_random:
            middle = [
                keras.layers.BatchNormalization(),
                keras.layers.Dropout(0.4, seed=3),
            ]
        self.body = keras.Sequential(
            [keras.layers.Dense(5), *middle, keras.layers.Dense(3)]
        )

    def call(self, x, training=False):
        """Predicts."""
        return self.body(x, training=training)

    def gradients_of(self, x, y):
        """The gradients of the mean error, and it."""
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(x, training=True) - y))
        return tape.gradient(loss, self.trainable_variables), loss

    @tf.function
    def update(self, x, y):
        """Makes one update."""
        gradients, loss = self.gradients_of(x, y)
        self.optimizer.apply(gradients, self.trainable_variables)
        return loss

    def train_step(self, data):
        """One update."""
        return {"loss": self.update(*data)}


def compiled(eager, optimizer="sgd", is_random=False):
    """Returns a function that makes a model that is built."""

    def make():
        model = Inside(is_random)
        model.compile(OPTIMIZERS[optimizer](), run_eagerly=eager)
        model(X)
        return model

    return make


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_one_step(optimizer, eager):
    """Its gradients are measured, by their norms, once."""
    make = compiled(eager, optimizer)
    _, callback = alike(make, one_batch())
    model, _ = trained(make, lambda model, callbacks: None, [])
    same_norms(callback, norms_of(model.gradients_of(X, Y)[0]))
    assert {None} == {row.optimizer for row in callback.report.variables}


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_fits(optimizer, eager):
    """Statistics and random numbers too are those of a bare training."""

    def train(model, callbacks):
        first = fitting()(model, callbacks)
        second = fitting()(model, callbacks)
        for callback in callbacks:
            assert 2 == len(second.history["grad_norm"])
            assert {"ok"} == {v.status for v in callback.report.variables}
        return first.history["loss"], second.history["loss"]

    alike(compiled(eager, optimizer, True), train)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_records_are_rare(eager):
    """Steps that nobody watches are measured by the functions known."""

    def train(model, callbacks):
        found = fitting(batch_size=2, epochs=3)(model, callbacks)
        for norm in found.history.get("grad_norm", ()):
            assert norm > 0
        return found

    callback = GradHealthCallback(every=10)
    _, callback = alike(compiled(eager, "adam"), train, callback)
    assert {"ok"} == {row.status for row in callback.report.variables}


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_function_is_the_users_again(optimizer, eager):
    """Bare training, and a direct call, after the guard has gone."""

    def train(model, callbacks):
        fitting()(model, callbacks)
        callbacks.clear()
        gc.collect()
        loss = model.update(X, Y)
        gc.collect()
        return float(loss), fitting()(model, []).history["loss"]

    bare, expected = trained(compiled(eager, optimizer), train, [])
    callbacks = [GradHealthCallback(every=1)]
    guarded, found = trained(compiled(eager, optimizer), train, callbacks)
    assert expected == found
    for old, new in zip(state(bare), state(guarded), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_no_trace_is_left(eager):
    """A function is as it was before: not called, or called by the user."""
    model, _ = trained(
        compiled(eager), fitting(), [GradHealthCallback(every=1)]
    )
    assert 0 == model.update.experimental_get_tracing_count()
    model.update(X, Y)
    (known,) = model.update._list_all_concrete_functions()
    trained(lambda: model, fitting(), [GradHealthCallback(every=1)])
    (now,) = model.update._list_all_concrete_functions()
    assert known is now


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_diagnose_before_fit(eager):
    """One look keeps no update from being made later."""

    def train(model, callbacks):
        if callbacks:
            report = diagnose(model, X, Y)
            assert report.ok
            assert {"ok"} == {row.status for row in report.variables}
            expected = norms_of(model.gradients_of(X, Y)[0])
            norms = [row.norm for row in report.variables]
            np.testing.assert_allclose(norms, expected, rtol=1e-5)
        return fitting()(model, [])

    alike(compiled(eager, "adam"), train)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("on_nonfinite", ["stop", "skip"])
def test_training_on_after_a_bad_step(on_nonfinite, eager):
    """What a latch withholds is withheld in the guarded training alone."""
    x = X.copy()
    x[9] = np.nan
    callback = GradHealthCallback(every=1, on_nonfinite=on_nonfinite)
    arguments = {"batch_size": 8, "epochs": 1, "shuffle": False}
    model, _ = trained(compiled(eager), fitting(x, **arguments), [callback])
    (found,) = callback.report.diagnoses
    assert ("GG221", 1) == (found.code, found.step)
    before = state(model)
    assert all(np.isfinite(value).all() for value in before)
    trained(lambda: model, one_batch(), [])
    after = state(model)
    assert not np.array_equal(before[0], after[0])


class Helped(Inside):
    """A helper of its loss is a `tf.function` that makes a variable."""

    def __init__(self):
        super().__init__()
        self.scale = None

    @tf.function
    def error(self, y, y_pred):
        """Makes its variable in its first call."""
        if self.scale is None:
            self.scale = tf.Variable(2.0, trainable=False)
        return tf.reduce_mean(tf.square(y - y_pred)) * self.scale

    def train_step(self, data):
        """The update is made outside of the function."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.error(y, self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_helper_that_makes_a_variable(eager):
    """The variable is made once, whoever calls first."""

    def make():
        model = Helped()
        model.compile(OPTIMIZERS["adam"](), run_eagerly=eager)
        model(X)
        return model

    def train(model, callbacks):
        fitting()(model, callbacks)
        return fitting()(model, [])

    _, callback = alike(make, train)
    assert {"ok"} == {row.status for row in callback.report.variables}
