"""Steps of a user's own that call `tf.function`s."""

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback, diagnose
from keras_gradguard.backend.tensorflow.capture.snapshot import Snapshot
from keras_gradguard.backend.tensorflow.tracing.reruns import lost_elements
from tests.fitting import MODES, NAMES, X, Y, marked
from tests.ways.alike import (
    alike,
    fitting,
    norms_of,
    one_batch,
    same_norms,
    state,
    trained,
)
from tests.ways.inside import (
    OPTIMIZERS,
    Again,
    Compiled,
    Helped,
    Inside,
    Rounded,
    Scaled,
    compiled,
)


@pytest.fixture(autouse=True)
def _nothing_is_frozen():
    """As in a program that has not called `gc.freeze`."""
    gc.unfreeze()


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
        return first.history["error"], second.history["error"]

    callback = GradHealthCallback(every=1, log_norm=True)
    alike(compiled(eager, optimizer, True), train, callback)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_records_are_rare(eager):
    """Steps that nobody watches are measured by the functions known."""

    def train(model, callbacks):
        found = fitting(batch_size=2, epochs=3)(model, callbacks)
        for norm in found.history.get("grad_norm", ()):
            assert norm > 0
        return found

    callback = GradHealthCallback(every=10, log_norm=True)
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
        return float(loss), fitting()(model, []).history["error"]

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


def test_weights_of_a_bad_step():
    """A function keeps those of the step that it runs in."""
    model = compiled(eager=True, is_random=True)()
    mean = model.body.layers[1].moving_mean
    snapshot = Snapshot(model, is_xla=False, is_batch_kept=False)

    @tf.function
    def keep():
        snapshot.store([])

    for value in (1.0, 2.0):
        mean.assign(tf.fill(mean.shape, value))
        snapshot.begin()
        mean.assign(tf.zeros(mean.shape))
        keep()
        weights, _ = snapshot.take()
        (found,) = (number for v, number in weights if v is mean)
        assert [value] * 5 == found.numpy().tolist()


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_cut_in_a_function(eager):
    """The line is found, and the function is the user's again."""
    model = Rounded()
    model.compile("sgd", run_eagerly=eager)
    model(X)
    callback = GradHealthCallback(every=1, on_break="raise")
    with pytest.raises(ValueError):
        model.fit(X, Y, verbose=0, callbacks=[callback])
    for report in (callback.report, diagnose(model, X, Y)):
        (found,) = report.diagnoses
        place = (found.code, found.file, found.line)
        assert ("GG105", *marked(Rounded.update.python_function)) == place
    assert 0 == model.update.experimental_get_tracing_count()


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("kind", [Inside, Compiled, Again])
def test_kinds(kind, eager):
    """A model that its first step builds, too."""

    def make():
        model = kind()
        model.compile(OPTIMIZERS["adam"](), run_eagerly=eager)
        if kind is not Inside:
            model(X)
        return model

    # XLA takes long to compile.
    train = one_batch() if kind is Compiled else fitting()
    _, callback = alike(make, train)
    assert {"ok"} == {row.status for row in callback.report.variables}


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_lost_in_half_precision(eager):
    """The step that is taken again for it stays in no function."""
    known = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = Scaled()
    finally:
        keras.config.set_dtype_policy(known)
    rate = keras.optimizers.SGD(0.1)
    model.compile(rate, run_eagerly=eager, auto_scale_loss=False)
    model(X)
    names = tuple(model.trainable_variables)
    batch = (tf.constant(X), tf.constant(Y))
    paths = tuple(variable.path for variable in names)
    found = lost_elements(model, batch, names, paths)
    assert set(paths) == set(found)
    assert any(lost for lost, _ in found.values())
    assert 0 == model.update.experimental_get_tracing_count()
