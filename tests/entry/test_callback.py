"""Door 2: when the callback looks, what it does, and what it leaves."""

import functools
import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import (
    GradHealthCallback,
    GradientBreakError,
    GradientBreakWarning,
    watch,
)
from keras_gradguard.errors import GuardFaultWarning
from tests.fitting import MODES, NAMES, X, Y, classifier, fit

pytestmark = pytest.mark.smoke


def rounded(y_true, y_pred):
    """Cuts everything."""
    return tf.reduce_mean(tf.square(y_true - tf.round(y_pred)))


def floor():
    """Returns a layer that cuts what lies before it."""
    return keras.layers.Lambda(lambda t: tf.floor(t), name="floor")


def state(model):
    """What must be as before: the bindings that the guard could change."""
    return (
        "train_step" in vars(model),
        "apply" in vars(model.optimizer),
        getattr(model.train_function, "__self__", None),
    )


CLEAN = (False, False, None)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_first_batch_before_the_first_update(eager):
    """No weight has moved when a partial cut is raised."""
    model = classifier("mse", eager, middle=floor())
    before = model.get_weights()
    _, error = fit(model, on_break="raise")
    assert isinstance(error, GradientBreakError)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert CLEAN == state(model)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_partial_cut_is_warned_of_once(eager):
    """Many steps and two traces of the step make one warning."""
    model = classifier("mse", eager, middle=floor())
    callback = GradHealthCallback(every=1)
    with pytest.warns(GradientBreakWarning) as caught:
        model.fit(X, Y, batch_size=6, epochs=3, verbose=0, callbacks=[callback])
    ours = [w for w in caught if w.category is GradientBreakWarning]
    assert 1 == len(ours)
    assert "warning[GG105] rounding" in str(ours[0].message)
    missing = [r for r in callback.report.variables if r.status == "missing"]
    assert 2 == len(missing)
    assert all(row.norm is None for row in missing)
    assert not callback.report.ok


def test_error_replaces_keras_bare_text():
    """The error is a ValueError, holds Keras' text and the report."""
    callback, error = fit(classifier(rounded))
    assert isinstance(error, ValueError)
    assert "No gradients provided for any variable." in str(error)
    assert "error[GG105] rounding" in str(error)
    assert error.report.diagnoses == callback.report.diagnoses
    assert 4 == len(callback.report.variables)


def test_nothing_is_warned_where_an_error_tells():
    """The text of an exception is not warned of a second time."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", GradientBreakWarning)
        with pytest.raises(GradientBreakError):
            classifier(rounded).fit(
                X, Y, verbose=0, callbacks=[GradHealthCallback()]
            )


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("loss", [rounded, "mse"], ids=["all", "some"])
def test_stop_ends_fit_without_an_exception(loss, eager):
    """`fit` returns after the first batch."""
    middle = None if loss is rounded else floor()
    model = classifier(loss, eager, middle=middle)
    callback = GradHealthCallback(on_break="stop")
    with pytest.warns(GradientBreakWarning):
        history = model.fit(
            X, Y, batch_size=4, epochs=5, verbose=0, callbacks=[callback]
        )
    assert 1 == len(history.epoch)
    assert CLEAN == state(model)


def test_expected_variables_are_no_alarm():
    """A path that a pattern finds may go without; its row still says so."""
    model = classifier("mse", middle=floor())
    callback, error = fit(model, on_break="raise", expect=["hidden/"])
    assert error is None
    assert () == callback.report.diagnoses
    statuses = [row.status for row in callback.report.variables]
    assert ["missing", "missing", "ok", "ok"] == statuses


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_weights_are_bit_identical(eager):
    """Dropout, Adam and three epochs give the same bits with the guard."""
    weights = []
    for callbacks in ([], [GradHealthCallback(every=1)]):
        keras.utils.set_random_seed(5)
        model = classifier(
            "mse", eager, keras.layers.Dropout(0.5), optimizer="adam"
        )
        model.fit(X, Y, batch_size=5, epochs=3, verbose=0, callbacks=callbacks)
        weights.append([v.numpy() for v in model.variables])
    for bare, guarded in zip(*weights, strict=True):
        np.testing.assert_array_equal(bare, guarded)


@pytest.mark.parametrize("steps", [1, 3])
def test_weights_are_bit_identical_under_xla(steps):
    """So it is with jit_compile and several steps per execution."""
    weights = []
    for callbacks in ([], [GradHealthCallback(every=1)]):
        keras.utils.set_random_seed(5)
        model = classifier("mse", optimizer="adam")
        model.compile(
            "adam", "mse", jit_compile=True, steps_per_execution=steps
        )
        model.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=callbacks)
        weights.append(model.get_weights())
    for bare, guarded in zip(*weights, strict=True):
        np.testing.assert_array_equal(bare, guarded)


def test_fit_after_fit():
    """Guarded, bare and guarded fits of one model do not disturb another."""
    model = classifier("mse")
    model.fit(X, Y, verbose=0)
    cached = model.train_function
    callback = GradHealthCallback(every=1)
    for _ in range(2):
        model.fit(X, Y, verbose=0, callbacks=[callback])
        assert {"ok"} == {row.status for row in callback.report.variables}
        assert cached is model.train_function
    model.fit(X, Y, verbose=0)
    assert CLEAN == state(model)
    other = classifier("mse")
    other.fit(X, Y, verbose=0, callbacks=[callback])
    assert {"ok"} == {row.status for row in callback.report.variables}


def test_two_callbacks():
    """Both see the same numbers, and the last one cleans up."""
    model = classifier("mse", middle=floor())
    both = [GradHealthCallback(every=1), GradHealthCallback(every=1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.fit(X, Y, verbose=0, callbacks=both)
    first, second = (callback.report for callback in both)
    assert first.diagnoses == second.diagnoses != ()
    assert first.variables == second.variables
    assert CLEAN == state(model)


@pytest.mark.parametrize("order", [1, -1])
def test_two_callbacks_with_their_own_pace(order):
    """Each has the numbers of the step that it has recorded."""
    both = [GradHealthCallback(every=1), GradHealthCallback(every=3)]
    classifier("mse").fit(
        X, Y, batch_size=4, epochs=2, verbose=0, callbacks=both[::order]
    )
    steps = [{r.step for r in c.report.variables} for c in both]
    assert [{7}, {6}] == steps


class Interrupting(keras.callbacks.Callback):
    """Raises in the middle of an epoch."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def on_train_batch_end(self, batch, logs=None):
        """Raises at the second batch."""
        if batch == 1:
            raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_exception_between_steps(error):
    """Nothing stays behind, and the next fits see nothing of it."""
    model = classifier("mse")
    callback = GradHealthCallback(every=1)
    with pytest.raises(error):
        model.fit(
            X,
            Y,
            batch_size=4,
            verbose=0,
            callbacks=[callback, Interrupting(error)],
        )
    assert CLEAN == state(model)
    rows = callback.report.variables
    model.fit(X, Y, verbose=0)
    assert rows == callback.report.variables
    again = GradHealthCallback(every=1)
    model.fit(X, Y, verbose=0, callbacks=[again])
    assert {"ok"} == {row.status for row in again.report.variables}
    assert CLEAN == state(model)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_interrupt_in_the_step(eager):
    """Ctrl-C inside the training step leaves nothing behind."""

    def interrupted(y_true, y_pred):
        raise KeyboardInterrupt

    model = classifier(interrupted, eager)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, verbose=0, callbacks=[GradHealthCallback()])
    assert CLEAN == state(model)


def test_healthy_step_is_not_traced_again(monkeypatch):
    """Thorough work waits until something is broken."""
    traced = []
    monkeypatch.setattr(
        "keras_gradguard.backend.tensorflow.tracing.evidence.trace_step",
        lambda *args: traced.append(args),
    )
    callback, error = fit(classifier("mse"))
    assert error is None
    assert callback.report.ok
    assert [] == traced


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"every": 0}, "every=0"),
        ({"every": 2.5}, "every=2.5"),
        ({"every": True}, "every=True"),
        ({"on_break": "explode"}, "on_break='explode'"),
        ({"expect": ["pooler("]}, "pooler("),
        ({"expect": [3]}, "3"),
    ],
)
def test_bad_arguments(arguments, words):
    """The error says what was given and what is expected."""
    with pytest.raises(ValueError, match=re.escape(words)):
        GradHealthCallback(**arguments)


def test_log_dir_is_a_path():
    """An optimizer in its place is told at once, by `watch` too."""
    watched = functools.partial(watch, classifier("mse"))
    for entry in (watched, GradHealthCallback):
        with pytest.raises(TypeError, match="must be a path .*log_dir=3 "):
            entry(3)
    assert "logs" == GradHealthCallback("logs").log_dir


def test_unwritable_log_dir(tmp_path):
    """Training goes on without records, after one warning."""
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    model = classifier("mse")
    callback = GradHealthCallback(log_dir=str(blocked), every=1)
    with pytest.warns(UserWarning, match="cannot write") as caught:
        model.fit(X, Y, batch_size=4, verbose=0, callbacks=[callback])
    assert 1 == len([w for w in caught if "cannot write" in str(w.message)])
    assert {"ok"} == {row.status for row in callback.report.variables}


def test_own_fault_switches_the_guard_off(monkeypatch):
    """A bug of the guard is one warning; training does not notice it."""
    monkeypatch.setenv("KERAS_GRADGUARD_STRICT", "0")
    model = classifier("mse", middle=floor())
    callback = GradHealthCallback(every=1)

    def broken(*args):
        raise RuntimeError("a bug")

    monkeypatch.setattr(
        "keras_gradguard.backend.tensorflow.tracing.evidence.trace_step", broken
    )
    with pytest.warns(GuardFaultWarning, match="GG900.*a bug") as caught:
        model.fit(X, Y, batch_size=4, verbose=0, callbacks=[callback])
    ours = [w for w in caught if w.category is GuardFaultWarning]
    assert 1 == len(ours)
    assert CLEAN == state(model)


def test_own_fault_behind_a_step(monkeypatch):
    """The weights and the loss are those of a run without the guard."""
    monkeypatch.setenv("KERAS_GRADGUARD_STRICT", "0")

    def broken(*args):
        raise RuntimeError("a bug")

    monkeypatch.setattr(
        "keras_gradguard.backend.tensorflow.hook.fit.Logs", broken
    )
    losses, weights = [], []
    for callbacks in ([], [GradHealthCallback(every=1, log_norm=True)]):
        keras.utils.set_random_seed(0)
        model = classifier("mse")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", GuardFaultWarning)
            history = model.fit(
                X, Y, batch_size=4, verbose=0, callbacks=callbacks
            )
        losses.append(history.history["loss"])
        weights.append(model.get_weights())
    ours = [w for w in caught if w.category is GuardFaultWarning]
    assert 1 == len(ours)
    assert losses[0] == losses[1]
    for bare, guarded in zip(*weights, strict=True):
        np.testing.assert_array_equal(bare, guarded)
    assert CLEAN == state(model)


def test_a_healthy_step_is_traced_once():
    """What the guard makes, and what it builds, asks for no second one."""
    counts = []
    for optimizer in ("sgd", "adam"):
        for callbacks in ([], [GradHealthCallback(every=1)]):
            traces = []

            def loss(y_true, y_pred, seen=traces):
                seen.append(y_pred)
                return tf.reduce_mean(tf.square(y_true - y_pred), axis=-1)

            model = classifier(loss, optimizer=optimizer)
            model.fit(X, Y, batch_size=16, verbose=0, callbacks=callbacks)
            counts.append(len(traces))
    assert [1, 1, 2, 1] == counts
