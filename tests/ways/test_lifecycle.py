"""A model's life around a guarded fit: again, elsewhere, saved, copied."""

import copy
import os
import pickle
import subprocess
import sys

import keras
import pytest

from keras_gradguard import GradGuardLoss, GradHealthCallback
from tests.fitting import MODES, NAMES, X, Y
from tests.ways.alike import (
    alike,
    belongings,
    fitting,
    same_bits,
    trained,
)


def make(eager=False, loss="mse"):
    """A functional model with state: dropout, batch statistics, momentum."""
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(6, name="hidden")(inputs)
    hidden = keras.layers.BatchNormalization(name="norm")(hidden)
    hidden = keras.layers.Dropout(0.3, name="drop")(hidden)
    outputs = keras.layers.Dense(3, name="head")(hidden)
    model = keras.Model(inputs, outputs)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, loss, metrics=["mae"], run_eagerly=eager)
    return model


def fit(model, callbacks=(), **arguments):
    """One epoch of three steps, the last one short."""
    arguments = {"batch_size": 6, "verbose": 0, **arguments}
    return model.fit(X, Y, callbacks=list(callbacks), **arguments).history


def loss_of(history):
    """A history without our own entries."""
    own = ("grad_norm", "skipped_steps")
    return {k: v for k, v in history.items() if k not in own}


def again(model, callbacks):
    """Guarded, bare and guarded."""
    return [loss_of(fit(model, c)) for c in (callbacks, (), callbacks)]


def with_batches(model, callbacks):
    """`train_on_batch` between guarded fits and inside one."""
    inside = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: model.train_on_batch(X, Y)
    )
    found = [model.train_on_batch(X[:6], Y[:6])]
    for _ in range(2):
        found.append(loss_of(fit(model, [*callbacks, inside], epochs=2)))
        found.append(model.train_on_batch(X[:6], Y[:6]))
    return found


def fit_in_fit(model, callbacks):
    """A callback trains the same model, guarded, at each epoch's end."""
    found = []
    inner = [GradHealthCallback(every=1)] if callbacks else []
    nested = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: found.append(
            loss_of(fit(model, inner))
        )
    )
    found.append(loss_of(fit(model, [nested, *callbacks], epochs=2)))
    return found


def other_in_fit(model, callbacks):
    """A callback trains another model in the middle of an epoch."""
    other = make()
    found = []
    inner = [GradHealthCallback(every=1)] if callbacks else []
    nested = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: found.append(
            loss_of(fit(other, inner))
        )
    )
    found.append(loss_of(fit(model, [*callbacks, nested])))
    return [*found, *other.get_weights()]


def two_callbacks(model, callbacks):
    """Two of them, with a pace of their own."""
    more = [GradHealthCallback(every=2)] if callbacks else []
    return loss_of(fit(model, [*callbacks, *more], epochs=2))


def elsewhere(model, callbacks):
    """One callback on two models in turn."""
    other = make()
    found = [loss_of(fit(m, callbacks)) for m in (model, other, model)]
    return [*found, *other.get_weights()]


def recompiled(model, callbacks):
    """Another optimizer and another loss between two fits."""
    found = [loss_of(fit(model, callbacks))]
    model.compile("adam", "mae", run_eagerly=model.run_eagerly)
    return [*found, loss_of(fit(model, callbacks))]


def evaluated(model, callbacks):
    """Validation, prediction and evaluation around it."""
    found = loss_of(fit(model, callbacks, validation_data=(X, Y), epochs=2))
    return [found, model.predict(X, verbose=0), model.evaluate(X, Y, verbose=0)]


def frozen(model, callbacks):
    """A layer is frozen and thawed, each time compiled anew."""
    found = [loss_of(fit(model, callbacks))]
    for trainable in (False, True):
        model.get_layer("hidden").trainable = trainable
        model.compile("sgd", "mse", run_eagerly=model.run_eagerly)
        found.append(loss_of(fit(model, callbacks)))
    return found


def frozen_without_compile(model, callbacks):
    """The step at hand goes on as it was traced; so does the guarded one."""
    found = [loss_of(fit(model, callbacks))]
    for trainable in (False, True):
        model.get_layer("hidden").trainable = trainable
        found.append(loss_of(fit(model, callbacks)))
    return found


def frozen_after_bare(model, callbacks):
    """As before, and the step at hand was traced by a bare fit."""
    found = [loss_of(fit(model))]
    model.get_layer("hidden").trainable = False
    return [*found, loss_of(fit(model, callbacks))]


def eager_without_compile(model, callbacks):
    """The step at hand goes on as it was made, eager or not."""
    hidden, was_eager = model.get_layer("hidden"), model.run_eagerly
    found = [loss_of(fit(model, callbacks))]
    for run_eagerly in (not was_eager, was_eager):
        model.run_eagerly = run_eagerly
        hidden.trainable = was_eager or not hidden.trainable
        found.append(loss_of(fit(model, callbacks)))
        assert model.run_eagerly is run_eagerly
    return found


SET_UP_ANEW = """
import keras, numpy
from tensorflow.python.eager import context
from keras_gradguard import GradHealthCallback

def status():
    layers = [keras.layers.Embedding(9, 4), keras.layers.Flatten()]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.compile("adam", "mse")
    callback = GradHealthCallback()
    x, y = numpy.ones((8, 3), "int32"), numpy.ones((8, 12))
    model.fit(x, y, verbose=0, callbacks=[callback])
    return callback.report.variables[0].status

first = status()
context._reset_context()
print(first, status())
"""
LIVES = (
    again,
    with_batches,
    fit_in_fit,
    other_in_fit,
    two_callbacks,
    elsewhere,
    recompiled,
    evaluated,
    frozen,
    frozen_without_compile,
    frozen_after_bare,
    eager_without_compile,
)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.__name__)
def test_same_life(life, eager):
    """Histories, weights, slots and seeds are those of the bare life."""
    model, callback = alike(lambda: make(eager), life)
    assert () == callback.report.diagnoses
    assert {"ok"} == {row.status for row in callback.report.variables}
    assert "keras_gradguard" not in model.train_function.__module__


def test_clone_of_a_guarded_model():
    """A clone, made before, during and after, has nothing of the guard."""
    clones = []
    during = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: clones.append(
            keras.models.clone_model(model)
        )
    )
    model = make()
    fit(model, [GradHealthCallback(every=1), during])
    bare, _ = trained(make, lambda model, _: fit(model), [])
    for clone in (*clones, keras.models.clone_model(model)):
        clone.set_weights(model.get_weights())
        clone.compile("sgd", "mse")
        fit(clone)
        assert (
            belongings(clone)[2:]
            == belongings(
                trained(
                    lambda: compiled(keras.models.clone_model(bare)),
                    lambda model, _: fit(model),
                    [],
                )[0]
            )[2:]
        )


def compiled(model):
    """Compiles and returns."""
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize("how", ["pickle", "deepcopy"])
def test_copies(how):
    """Copies made after and in the midst of a fit train on like the bare."""

    def copied(model):
        return (
            pickle.loads(pickle.dumps(model))
            if how == "pickle"
            else copy.deepcopy(model)
        )

    def train(model, callbacks):
        copies = []
        during = keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda b, logs: copies.append(copied(model)),
            on_train_batch_end=lambda b, logs: copies.append(copied(model)),
        )
        fit(model, [*callbacks, during])
        copies.append(copied(model))
        for one in copies:
            fit(one)
        return [one.get_weights() for one in copies]

    alike(make, train)


def test_saved_with_a_guarded_loss(tmp_path):
    """A saved model goes on as the bare one that was saved."""
    results = []
    for wrap in (lambda loss: loss, GradGuardLoss):
        name = tmp_path / f"{wrap.__name__.strip('<>')}.keras"

        def train(model, callbacks, name=name):
            fit(model, callbacks)
            model.save(name)
            loaded = keras.saving.load_model(name)
            keras.utils.set_random_seed(1)
            return loss_of(fit(loaded, callbacks)), loaded

        def made(wrap=wrap):
            return make(loss=wrap(keras.losses.MeanSquaredError()))

        callbacks = [GradHealthCallback(every=1)] if results else []
        _, (history, loaded) = trained(made, train, callbacks)
        results.append((history, loaded))
    assert results[0][0] == results[1][0]
    same_bits(results[0][1], results[1][1])
    assert isinstance(results[1][1].loss, GradGuardLoss)


def test_never_stale():
    """A fit after a guarded one re-uses the train function of before."""
    model = make()
    fit(model)
    cached = model.train_function
    fit(model, [GradHealthCallback(every=1)])
    assert cached is model.train_function
    fitting()(model, [])
    assert cached is model.train_function


def test_tensorflow_that_is_set_up_anew():
    """As Keras' own tests do, to get other devices in the same process."""
    done = subprocess.run(
        [sys.executable, "-c", SET_UP_ANEW],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_GRADGUARD_STRICT": "1"},
        check=False,
    )
    assert 0 == done.returncode, done.stderr[-2000:]
    assert "ok ok" == done.stdout.strip()
