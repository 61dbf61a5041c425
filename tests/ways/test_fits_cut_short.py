"""A fit that ends before its first step hands nothing on to the next one."""

import gc
import weakref

import keras
import pytest

from keras_gradguard import GradHealthCallback
from tests.fitting import MODES, NAMES, classifier
from tests.ways.test_lifecycle import fit

PLACES = ["on_train_begin", "on_train_batch_begin", "on_train_batch_end"]


class Interrupted(Exception):
    """What the other callback raises."""


def failing(hook="on_train_begin"):
    """A callback that raises."""

    def fail(*arguments, **named):
        raise Interrupted

    other = keras.callbacks.Callback()
    setattr(other, hook, fail)
    return other


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_compiled_anew(eager):
    """The new optimizer is measured, not the old one."""
    model = classifier("mse", eager)
    first = GradHealthCallback(every=1)
    with pytest.raises(Interrupted) as kept:
        fit(model, [first, failing()])
    model.compile("adam", "mae", run_eagerly=eager)
    callback = GradHealthCallback(every=1, log_norm=True)
    history = fit(model, [callback])
    assert history["grad_norm"][0] > 0
    assert ["ok"] * 4 == [row.status for row in callback.report.variables]
    assert all(row.norm > 0 for row in callback.report.variables)
    assert "apply" not in vars(model.optimizer)
    assert kept.value is not None


class Loose(keras.layers.Layer):
    """Has a weight that it does not use."""

    def build(self, shape):
        """Makes it."""
        self.loose = self.add_weight(shape=(2,), name="loose")

    def call(self, x):
        """Passes on."""
        return x


@pytest.mark.parametrize("hook", PLACES[:2])
def test_the_old_callback_acts_no_more(hook):
    """What it was to raise is not raised by the next fit."""
    model = classifier("mse", middle=Loose())
    first = GradHealthCallback(on_break="raise")
    with pytest.raises(Interrupted) as kept:
        fit(model, [first, failing(hook)])
    before = first.report
    callback = GradHealthCallback(every=1)
    with pytest.warns(UserWarning, match="loose"):
        fit(model, [callback])
    assert 1 == len(callback.report.diagnoses)
    assert before == first.report
    assert kept.value is not None


def test_two_callbacks_of_one_fit_share_a_hook():
    """Each step is guarded once, whoever of both asks."""
    both = [GradHealthCallback(every=1), GradHealthCallback(every=2)]
    hooks = set()
    look = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda b, logs: hooks.update(
            id(callback._monitor._hook) for callback in both
        )
    )
    fit(classifier("mse"), [*both, look], epochs=2)
    assert 1 == len(hooks)


@pytest.mark.parametrize("hook", PLACES)
@pytest.mark.parametrize("number", [1, 2])
def test_the_model_is_freed(hook, number):
    """Nothing of the guard holds a model whose fit has failed."""
    model = classifier("mse", eager=True)
    callbacks = [GradHealthCallback() for _ in range(number)]
    try:
        fit(model, [*callbacks, failing(hook)])
    except Interrupted:
        pass
    known = weakref.ref(model)
    del model, callbacks
    gc.collect()
    assert known() is None
