"""`fit` that others have wrapped or overridden: the same diagnosis and line."""

import functools
import gc
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback
from keras_gradguard.model import layers as keras_internals
from tests.fitting import MODES, NAMES, X, Y, marked
from tests.ways.alike import alike, belongings, one_batch

plain_fit = keras.Model.fit


def logged_fit(self, *args, **kwargs):
    """What an experiment logger puts in place of `fit`."""
    return plain_fit(self, *args, **kwargs)


class Hard(keras.layers.Layer):
    """Cuts the gradient."""

    def call(self, x):
        """Makes truth values of numbers."""
        return tf.cast(x > 0.0, tf.float32)  # cut


class Sub(keras.Sequential):
    """Overrides `fit`."""

    def fit(self, *args, **kwargs):
        """Calls that of Keras."""
        return super().fit(*args, **kwargs)


def make(eager=False, kind=keras.Sequential):
    """A model that is cut in its middle."""
    layers = [keras.layers.Dense(3), Hard(), keras.layers.Dense(3)]
    model = kind([keras.Input((4,)), *layers])
    model.compile("adam", "mse", run_eagerly=eager)
    return model


WAYS = ["plain", "class", "wraps", "trainer", "instance", "subclass"]


@pytest.fixture(params=WAYS)
def wrapped(request, monkeypatch):
    """Wraps `fit` in one way; returns what makes a model and trains it."""
    kind, trainer = keras.Sequential, keras_internals.trainer.TensorFlowTrainer
    if request.param == "class":
        monkeypatch.setattr(keras.Model, "fit", logged_fit)
    elif request.param == "wraps":
        wrap = functools.wraps(plain_fit)
        monkeypatch.setattr(keras.Model, "fit", wrap(logged_fit))
    elif request.param == "trainer":
        monkeypatch.setattr(trainer, "fit", logged_fit)
    elif request.param == "subclass":
        kind = Sub

    def train(model, callbacks):
        if request.param == "instance":
            vars(model)["fit"] = types.MethodType(logged_fit, model)
        try:
            return one_batch()(model, callbacks)
        finally:
            vars(model).pop("fit", None)

    return kind, train


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_diagnosis_and_line(wrapped, eager):
    """They are found, and the bits are those of the bare `fit`."""
    kind, train = wrapped
    _, callback = alike(lambda: make(eager, kind), train)
    (found,) = callback.report.diagnoses
    assert ("GG102", *marked(Hard.call)) == (found.code, found.file, found.line)
    assert callback.report.not_checked is None


def test_frames_that_lead_to_the_step(wrapped):
    """An exception of the step is placed in the step, not in the wrapper."""
    kind, train = wrapped

    def loss(y_true, y_pred):
        return y_pred * float(keras.ops.sum(y_pred))  # cut

    model = kind([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", loss)
    callback = GradHealthCallback()
    with pytest.raises(TypeError):
        train(model, [callback])
    (found,) = callback.report.diagnoses
    assert marked(loss) == (found.file, found.line)


class Interrupted(Exception):
    """What another callback raises."""


def test_list_of_callbacks_of_the_users_own():
    """It outlives the `fit`; the hook does not."""

    def fail(batch, logs):
        raise Interrupted

    model = make()
    callback = GradHealthCallback()
    other = keras.callbacks.LambdaCallback(on_train_batch_begin=fail)
    callbacks = keras.callbacks.CallbackList([callback, other], model=model)
    try:
        model.fit(X, Y, verbose=0, callbacks=callbacks)
    except Interrupted:
        pass
    gc.collect()
    assert "gradguard" not in belongings(model)[1]
    assert "keras_gradguard" not in model.train_function.__module__


def test_fit_of_the_users_own():
    """A loop that tells callbacks of its steps is no `fit` of Keras'."""

    class Loop(keras.Sequential):
        def fit(self, data, callbacks):
            self.make_train_function()
            known = keras.callbacks.CallbackList(callbacks, model=self)
            known.on_train_begin()
            for number, batch in enumerate(data):
                known.on_train_batch_begin(number)
                logs = self.train_function(iter([batch]))
                known.on_train_batch_end(number, logs)
            known.on_train_end()

    model = make(True, Loop)
    callback = GradHealthCallback()
    with pytest.warns(UserWarning, match="GG102"):
        model.fit([(X, Y), (X, Y)], [callback])
    assert np.isfinite(callback.report.global_norm)
