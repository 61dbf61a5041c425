"""Exceptions at every place of a guarded fit, and what they leave: nothing."""

import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fitting import MODES, NAMES, X, Y
from tests.ways.alike import alike, belongings
from tests.ways.test_lifecycle import fit, loss_of, make


def test_checkpoints(tmp_path):
    """Whole models, weights and back-ups written in a fit are the bare ones."""

    def train(model, callbacks):
        folder = tmp_path / ("guarded" if callbacks else "bare")
        writers = [
            keras.callbacks.ModelCheckpoint(
                folder / "{epoch}.keras", save_freq=2
            ),
            keras.callbacks.ModelCheckpoint(
                folder / "best.weights.h5",
                monitor="loss",
                save_best_only=True,
                save_weights_only=True,
            ),
            keras.callbacks.BackupAndRestore(folder / "backup", save_freq=1),
        ]
        interrupt = keras.callbacks.LambdaCallback(
            on_train_batch_begin=interrupting(epoch_batch=(1, 1))
        )
        both = [*writers, *callbacks]
        with pytest.raises(KeyboardInterrupt):
            fit(model, [*both, interrupt], epochs=3)
        found = [loss_of(fit(model, both, epochs=3))]
        loaded = keras.saving.load_model(folder / "2.keras")
        twin = make()
        twin.load_weights(folder / "best.weights.h5")
        found.append(loss_of(fit(loaded)))
        return [*found, loaded.get_weights(), twin.get_weights()]

    alike(make, train)


def interrupting(epoch_batch):
    """Returns a function of `(batch, logs)` that raises once, like Ctrl-C."""
    calls = [0]

    def begin(batch, logs):
        calls[0] += 1
        if calls[0] == 3 * epoch_batch[0] + epoch_batch[1] + 1:
            raise KeyboardInterrupt

    return begin


HOOKS = (
    "on_train_begin",
    "on_epoch_begin",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_epoch_end",
    "on_train_end",
)


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("kind", [KeyboardInterrupt, ZeroDivisionError])
def test_exception_of_another_callback(kind, hook, place):
    """Wherever another callback raises, the model is as a bare one would be."""

    def fail(*arguments, **named):
        raise kind

    def train(model, callbacks):
        other = keras.callbacks.Callback()
        setattr(other, hook, fail)
        both = [other, *callbacks] if place == "before" else [*callbacks, other]
        with pytest.raises(kind):
            fit(model, both)
        pickle.dumps(model)
        left = belongings(model)
        return left, loss_of(fit(model)), loss_of(fit(model, callbacks))

    alike(make, train)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("kind", [KeyboardInterrupt, ZeroDivisionError])
def test_exception_of_the_data(kind, eager):
    """A generator that raises ends the fit with its own exception."""

    def batches():
        for number in range(4):
            if number == 2:
                raise kind
            yield X[:6], Y[:6]

    def train(model, callbacks):
        with pytest.raises((kind, tf.errors.UnknownError)) as caught:
            model.fit(
                batches(), steps_per_epoch=4, verbose=0, callbacks=callbacks
            )
        left = belongings(model)
        return (
            caught.type,
            left,
            loss_of(fit(model)),
            loss_of(fit(model, callbacks)),
        )

    alike(lambda: make(eager), train)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ZeroDivisionError])
def test_exception_in_the_step(kind):
    """Raised by a layer in the short last step; the next fits are sound."""
    is_armed = [True]

    class Failing(keras.layers.Layer):
        """Raises in the step of four rows."""

        def call(self, x, training=False):
            """Passes on."""
            if is_armed[0] and training and x.shape[0] == 4:
                raise kind
            return x

    def failing():
        is_armed[0] = True
        model = keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(3), Failing()]
        )
        model.compile("adam", "mse", run_eagerly=True)
        return model

    def train(model, callbacks):
        with pytest.raises(kind):
            fit(model, callbacks)
        is_armed[0] = False
        left = belongings(model)
        return left, loss_of(fit(model)), loss_of(fit(model, callbacks))

    alike(failing, train)


def test_epoch_of_no_batch_left():
    """Data that run out in the second epoch leave nothing behind."""

    def train(model, callbacks):
        data = ((X[:6], Y[:6]) for _ in range(4))
        with np.errstate(all="ignore"):
            history = model.fit(
                data,
                steps_per_epoch=3,
                epochs=2,
                verbose=0,
                callbacks=callbacks,
            )
        return loss_of(history.history), belongings(model)

    alike(make, train)
