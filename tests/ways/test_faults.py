"""Faults of the guard itself (GG900): the bits of a bare run, and a word."""

import functools
import pkgutil
import random
import re
import sys
import threading
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from pytest import param

from keras_gradguard import GradGuardLoss, GradHealthCallback, watch
from keras_gradguard.backend.tensorflow.hook.running import running_hook
from keras_gradguard.backend.tensorflow.internals.patch import Replacement
from keras_gradguard.backend.tensorflow.internals.randomness import (
    Drawing,
    random_state_kept,
)
from keras_gradguard.errors import (
    FaultBarrier,
    GradientBreakWarning,
    GuardFaultWarning,
)
from keras_gradguard.records.reading import report_of
from tests.faults.trainings import Hard
from tests.fitting import MODES, NAMES, X, Y
from tests.ways.alike import belongings, same_bits, trained

PACKAGE = "keras_gradguard."
# In the names below, for the folder of the TensorFlow backend.
BACKEND = "btf.", "backend.tensorflow."


@pytest.fixture(autouse=True)
def caught(monkeypatch):
    """Faults are caught here, as they are for a user."""
    monkeypatch.setenv("KERAS_GRADGUARD_STRICT", "0")


class Drawing4(keras.layers.Layer):
    """Draws in all four ways; Python and NumPy as the step is traced."""

    def call(self, x):
        """Adds noise."""
        x = x * (1.0 + 0.01 * random.random() + 0.01 * np.random.normal())
        return x + 0.01 * (tf.random.normal([]) + keras.random.normal([]))


class OwnStep(keras.Model):
    """A step of the user's own, with an update in a function."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        """Passes on."""
        return self.inner(x)

    def train_step(self, data):
        """Draws in Python, and updates."""
        x, y = data
        with tf.GradientTape() as tape:
            error = y + np.random.normal() - self(x, training=True)
            loss = tf.reduce_mean(tf.square(error))
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


def make(eager=False, middle=None, is_own=False, loss="mse", drawing=True):
    """A model with all that a step may change."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(5)
    layers = [
        keras.layers.Dense(5),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.3),
        *([Drawing4()] if drawing else []),
        *([] if middle is None else [middle]),
        keras.layers.Dense(3),
    ]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model = OwnStep(model) if is_own else model
    model.compile("adam", loss, run_eagerly=eager)
    return model


def shuffled(model, callbacks):
    """Two epochs of three steps, the last one short; what is drawn later."""
    model.fit(X, Y, batch_size=6, epochs=2, verbose=0, callbacks=callbacks)
    later = [random.random(), np.random.normal(), tf.random.normal([])]
    return [*map(float, later), float(keras.random.normal([]))]


def generated(model, callbacks):
    """Batches of a generator that draws their noise."""

    def batches():
        while True:
            noise = np.random.normal(size=X[:6].shape)
            yield (X[:6] + noise).astype("float32"), Y[:6]

    model.fit(
        batches(), steps_per_epoch=3, epochs=2, verbose=0, callbacks=callbacks
    )


@functools.cache
def bare(train, **arguments):
    """The bare run."""
    return trained(lambda: make(**arguments), train, [])


def failing(monkeypatch, name, call=1, before=lambda: None):
    """Lets a function of the guard fail in its n-th call, and ever after."""
    name = PACKAGE + name.replace(*BACKEND)
    known = pkgutil.resolve_name(name)
    calls = [0]

    def fail(*arguments, **named):
        calls[0] += 1
        if calls[0] >= call:
            before()
            raise ZeroDivisionError("injected")
        return known(*arguments, **named)

    monkeypatch.setattr(name, fail)
    return calls


def guarded(train, callback, **arguments):
    """A guarded run; returns model, what it returned, and the faults told."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = make(**arguments)
        done = train(model, [callback])
    return model, done, [w for w in said if w.category is GuardFaultWarning]


def survived(monkeypatch, name, train, call=1, callback=None, **arguments):
    """A fault changes no bit, is reported once, and leaves nothing."""
    expected, known = bare(train, **arguments)
    callback = callback or GradHealthCallback(every=1)
    with monkeypatch.context() as context:
        calls = failing(context, name, call)
        model, done, told = guarded(train, callback, **arguments)
    assert calls[0] >= call
    same_bits(expected, model)
    assert known == done
    assert 1 == len(told)
    assert "injected" in str(told[0].message)
    assert running_hook() is None
    assert "keras_gradguard" not in belongings(model)[1]
    not_looked(callback.report)
    return callback


def not_looked(report):
    """A report says that the guard has failed, in each of its forms."""
    assert not report.ok
    assert "GG900" in report.not_checked
    for text in (str(report), report._repr_html_()):
        assert "nothing broken" not in text
        assert "not checked" in text
    values = report.to_dict()
    assert (False, report.not_checked) == (values["ok"], values["not_checked"])
    assert report.not_checked == report_of(values).not_checked


MADE = [
    "callback.num_replicas",
    "callback.TrainingLog",
    "monitor.monitor.MissingGradients",
    "btf.hook.fit.FitHook.__init__",
    "btf.hook.guarded_step.FirstTrace",
    "btf.hook.guarded_step.made_anew",
    "callback.Symptoms",
]
FIRST = [
    "monitor.first_batch.FirstBatch.begin",
    "btf.hook.fit.FitHook.guard_next",
    "btf.hook.guarded_step.Probe",
    "btf.hook.fit.note_run",
    "btf.hook.running.Running.__enter__",
    "btf.internals.patch.Replacement.__enter__",
]
TRACED = [
    "btf.hook.guarded_step.spec_of",
    "btf.hook.first_trace.FirstTrace.begin",
    "btf.hook.guarded_step.GuardedStep.is_probed",
    "btf.capture.probe.Probe.begin",
    "btf.capture.probe.Probe.mark_loss",
    "btf.hook.guarded_step.GuardedStep.update_of",
    "monitor.monitor.Monitor.check_gradients",
    "monitor.monitor.Monitor._check",
    "monitor.missing.MissingGradients.explain",
    "btf.capture.probe.Probe.before_apply",
    "btf.capture.updates.half_square",
    "btf.capture.bad_step.BadStep.keeper",
    "btf.capture.probe.Probe.after_apply",
    "btf.capture.probe.Probe.end",
    "btf.capture.probe.packed_totals",
]
# Of a default step that is traced.
BUILT = [
    "btf.hook.first_trace.FirstTrace._built",
    "btf.hook.first_trace.FirstTrace._may_lift",
    "btf.hook.first_trace.FirstTrace.build",
    "btf.hook.first_trace._PythonState.has_changed",
    "btf.hook.first_trace._PythonState.note_built",
]
LATER = [
    ("btf.hook.fit.FitHook.guard_next", 3),
    ("btf.capture.probe.Probe.expect", 2),
    ("btf.hook.fit.FitHook._taken_from", 1),
    ("btf.hook.fit.FitHook._taken_from", 4),
    ("btf.capture.totals.EpochTotals.take", 2),
    ("btf.hook.fit.Logs", 2),
    ("btf.capture.probe.Probe.latest", 3),
    ("monitor.log.TrainingLog.record", 2),
    ("monitor.first_batch.FirstBatch.explain", 1),
    ("monitor.first_batch.hidden_cuts", 1),
    ("monitor.symptoms.Symptoms.explain", 5),
    ("schedule.Schedule.is_due", 4),
    ("btf.hook.running.Running.__exit__", 2),
    ("btf.capture.totals.EpochTotals.begin", 1),
    ("btf.hook.fit.Logs._exchange", 1),
]
LAST = [("btf.hook.fit.FitHook.undo", 1), ("monitor.log.TrainingLog.close", 1)]
PLACES = [
    *((name, 1) for name in (*MADE, *FIRST, *TRACED)),
    *LATER,
    *LAST,
]


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize(("name", "call"), PLACES)
def test_fault_in_each_phase(name, call, eager, monkeypatch):
    """Hook, first trace, later steps, end: no bit of a shuffled fit moves."""
    if eager and name == "btf.hook.fit.FitHook._taken_from" and call == 1:
        pytest.skip("the same as the later call")
    callback = GradHealthCallback(every=1, log_norm=".Logs" in name)
    survived(monkeypatch, name, shuffled, call, callback, eager=eager)


@pytest.mark.parametrize("name", BUILT)
def test_fault_in_what_saves_a_trace(name, monkeypatch):
    """The step is traced as often as without the guard, whatever it draws."""
    survived(monkeypatch, name, shuffled)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("btf.hook.fit.FitHook.__init__", 1),
        ("btf.capture.probe.Probe.begin", 1),
        ("btf.capture.totals.EpochTotals.take", 2),
        ("monitor.symptoms.Symptoms.explain", 3),
        ("btf.hook.fit.FitHook.undo", 1),
    ],
)
def test_fault_beside_a_generator(name, call, eager, monkeypatch):
    """No batch is lost, and its noise is that of a bare run."""
    # In an eager step both would draw, and no run be like another one.
    survived(monkeypatch, name, generated, call, eager=eager, drawing=not eager)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("btf.hook.train_function.OwnStep._watch", 1),
        ("btf.internals.functions.Functions.apart", 1),
        ("btf.capture.probe.Probe.end", 1),
        ("btf.capture.probe.Probe.latest", 2),
    ],
)
def test_fault_in_a_step_of_the_users_own(name, call, eager, monkeypatch):
    """It draws in Python each time that it is traced."""
    survived(monkeypatch, name, shuffled, call, eager=eager, is_own=True)


@pytest.mark.parametrize("on_nonfinite", ["skip", "raise"])
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("btf.capture.bad_step.LeftOutUpdates.apply", 1),
        ("btf.capture.bad_step.LeftOutUpdates.restored", 1),
        ("btf.capture.probe.Probe.latest", 2),
    ],
)
def test_fault_where_updates_are_held_back(
    name, call, on_nonfinite, monkeypatch
):
    """Each update is made, and made once."""
    callback = GradHealthCallback(every=1, on_nonfinite=on_nonfinite)
    survived(monkeypatch, name, shuffled, call, callback)


@pytest.mark.parametrize("what", ["skip", "raise"])
def test_nothing_is_held_back_after_a_fault(what, monkeypatch):
    """A bad step later on does what it does without the guard."""

    class Late(keras.layers.Layer):
        def build(self, shape):
            self.count = self.add_weight(initializer="zeros", trainable=False)

        def call(self, x, training=False):
            if training:
                self.count.assign_add(1.0)
            return tf.where(self.count > 3.0, tf.math.log(-tf.abs(x)), x)

    def train(model, callbacks):
        model.fit(X, Y, batch_size=6, epochs=2, verbose=0, callbacks=callbacks)

    expected, _ = trained(lambda: make(middle=Late()), train, [])
    callback = GradHealthCallback(every=1, on_nonfinite=what)
    with monkeypatch.context() as context:
        failing(context, "btf.capture.probe.Probe.latest", 2)
        model, _, told = guarded(train, callback, middle=Late())
    same_bits(expected, model)
    assert np.isnan(model.get_weights()[0]).all()
    assert 1 == len(told)


def drawn():
    """Draws all that a training draws from."""
    random.random()
    np.random.normal()
    with tf.init_scope():
        tf.random.normal([])
        keras.random.normal([])
        tf.random.get_global_generator().normal([])


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize(
    "name",
    [
        "callback.Symptoms",
        "btf.tracing.evidence.trace_step",
        "monitor.first_batch.hidden_cuts",
        "monitor.symptoms.Symptoms.jumps",
    ],
)
def test_what_was_drawn_before_a_fault_is_put_back(name, eager, monkeypatch):
    """The numbers of Python, NumPy, TensorFlow and Keras."""
    found = []
    for callbacks in ([], [GradHealthCallback(every=1)]):
        with monkeypatch.context() as context, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            calls = failing(context, name, before=drawn)
            model, later = trained(
                lambda: make(eager, Hard()), shuffled, callbacks
            )
        found.append((model, later))
    assert calls[0]
    same_bits(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    not_looked(callbacks[0].report)


def test_numbers_of_other_threads_are_not_put_back():
    """What a generator has drawn in the meantime is not drawn again."""
    np.random.seed(3)
    expected = np.random.normal(size=2)
    for is_elsewhere, known in ((True, expected[1]), (False, expected[0])):
        np.random.seed(3)
        other = threading.Thread(target=np.random.normal)
        with Drawing(is_elsewhere), random_state_kept():
            other.start()
            other.join()
        assert known == np.random.normal()


@pytest.mark.parametrize(
    ("train", "expected"),
    [param(shuffled, False, id="arrays"), param(generated, True, id="python")],
)
def test_who_draws_for_the_batches(train, expected):
    """Arrays are shuffled by TensorFlow; Python may run in other threads."""
    callback, known = GradHealthCallback(), set()
    look = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: known.add(
            callback._monitor._hook.is_drawn_elsewhere
        )
    )
    train(make(), [callback, look])
    assert {expected} == known


def test_the_report_says_how_far_the_guard_came(monkeypatch):
    """A finding of before is kept; the fault is reported beside it."""
    callback = GradHealthCallback(every=1)
    with monkeypatch.context() as context:
        failing(context, "monitor.symptoms.Symptoms.explain", 3)
        guarded(shuffled, callback, middle=Hard())
    report = callback.report
    assert ["GG102"] == [d.code for d in report.diagnoses]
    assert re.fullmatch(
        "keras_gradguard itself failed after 3 steps of this training and has "
        r"checked nothing since then \(GG900, test_faults.py:\d+: "
        r"ZeroDivisionError: injected\)\.",
        report.not_checked,
    )
    text = " ".join(str(report).split())
    said = "report: broken: 1 warning, the rest not checked; 6 trainable"
    assert said in text
    assert f"= why: {report.not_checked}" in text


def test_another_fit_is_guarded_anew(monkeypatch):
    """A fault belongs to one training."""
    callback = GradHealthCallback(every=1)
    model = make()
    with monkeypatch.context() as context, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        failing(context, "btf.capture.probe.Probe.latest")
        shuffled(model, [callback])
    not_looked(callback.report)
    shuffled(model, [callback])
    assert callback.report.ok
    assert callback.report.not_checked is None


def test_two_callbacks_of_one_fit(monkeypatch):
    """They share what is hooked: one warning, and both reports say so."""
    expected, known = bare(shuffled)
    both = [GradHealthCallback(every=1), GradHealthCallback(every=2)]
    with (
        monkeypatch.context() as context,
        pytest.warns(GuardFaultWarning) as said,
    ):
        failing(context, "btf.capture.totals.EpochTotals.take", 2)
        model = make()
        done = shuffled(model, both)
    same_bits(expected, model)
    assert known == done
    assert 1 == sum(w.category is GuardFaultWarning for w in said)
    for callback in both:
        not_looked(callback.report)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize(
    "name", ["loss.is_connected", "loss.is_examining", "loss.tensors_of"]
)
def test_fault_of_the_loss(name, eager, monkeypatch):
    """The value is that of the loss, and the report of the fit tells."""

    def train(loss, callbacks):
        model = make(eager, loss=loss)
        return model, shuffled(model, callbacks)

    expected, known = train(keras.losses.MeanSquaredError(), [])
    callback = GradHealthCallback(every=1)
    with monkeypatch.context() as context, pytest.warns(GuardFaultWarning):
        failing(context, name)
        loss = GradGuardLoss(keras.losses.MeanSquaredError())
        model, done = train(loss, [callback])
    same_bits(expected, model)
    assert known == done
    not_looked(callback.report)


def test_a_filter_makes_no_exception_of_a_fault(monkeypatch, capsys):
    """Nobody can catch it at the place where it would be raised."""
    expected, known = bare(shuffled)
    with monkeypatch.context() as context, warnings.catch_warnings():
        warnings.simplefilter("error", GuardFaultWarning)
        failing(context, "btf.capture.totals.EpochTotals.take", 2)
        model = make()
        callback = GradHealthCallback(every=1)
        assert known == shuffled(model, [callback])
    same_bits(expected, model)
    assert "GG900" in capsys.readouterr().err
    not_looked(callback.report)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_a_filter_makes_an_exception_of_a_break(eager):
    """It is what the user has asked for, and no fault of the guard."""
    model = make(eager, Hard())
    callback = GradHealthCallback()
    with warnings.catch_warnings():
        warnings.simplefilter("error", GradientBreakWarning)
        with pytest.raises(GradientBreakWarning, match="GG102"):
            shuffled(model, [callback])
    assert callback.report.not_checked is None
    assert "keras_gradguard" not in belongings(model)[1]
    assert "apply" not in vars(model.optimizer)


def test_a_failure_in_entering_leaves_what_was_entered():
    """So a Ctrl-C there does."""

    class Failing:
        def __enter__(self):
            raise KeyboardInterrupt

        def __exit__(self, *_):
            raise AssertionError

    class Thing:
        pass

    thing = Thing()
    hooked = Replacement([(thing, "name", 1)])
    with pytest.raises(KeyboardInterrupt):
        with FaultBarrier().around(hooked, Failing()):
            raise AssertionError
    assert {} == vars(thing)


def test_report_of_no_training():
    """A callback that has seen none does not say that all is well."""
    report = GradHealthCallback().report
    assert not report.ok
    assert "nothing broken" not in str(report)
    assert "has not been used in a `fit`" in report.not_checked


def looped(eager, watching=None, **arguments):
    """Four updates of a loop of the user's own."""
    model = make(loss=None, drawing=eager)
    optimizer = keras.optimizers.Adam(0.01)

    def step(x, y):
        with tf.GradientTape() as tape:
            error = tf.square(y - model(x, training=True))
            loss = tf.reduce_mean(error) + 0.01 * tf.random.normal([])
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)

    step = step if eager else tf.function(step)
    health = None
    if watching is None:
        for _ in range(4):
            step(X, Y)
    else:
        with watching(model, every=1, **arguments) as health:
            for _ in range(4):
                step(X, Y)
                health.step()
    return model, optimizer, health


LOOPS = [
    ("loop.is_chief", 1),
    ("loop.Monitor", 1),
    ("btf.hook.loop.live_optimizers", 1),
    ("btf.hook.loop.LoopHook.add", 1),
    ("btf.tracing.recorder.LiveRecorder.open", 1),
    ("btf.hook.loop.LoopHook._is_watched", 1),
    ("btf.hook.loop.LoopHook.update_of", 1),
    ("monitor.monitor.Monitor.check_gradients", 1),
    ("monitor.monitor.Monitor._check", 1),
    ("btf.capture.probe.LoopProbe.before_apply", 1),
    ("btf.capture.updates.LoopCapture.after", 1),
    ("btf.hook.loop.FirstStep.note_update", 1),
    ("btf.hook.loop.LoopHook.note_update", 1),
    ("monitor.monitor.Monitor._written", 2),
    ("monitor.symptoms.Symptoms.explain", 2),
    ("btf.hook.loop.LoopHook.undo", 1),
    ("monitor.log.TrainingLog.close", 1),
]


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize(("name", "call"), LOOPS)
def test_fault_in_a_loop_of_the_users_own(name, call, eager, monkeypatch):
    """The same holds for `watch`."""
    expected, slots, _ = looped(eager)
    with monkeypatch.context() as context:
        calls = failing(context, name, call)
        with pytest.warns(GuardFaultWarning) as said:
            model, optimizer, health = looped(eager, watch)
    assert calls[0] >= call
    assert 1 == sum(w.category is GuardFaultWarning for w in said)
    pairs = [(expected.variables, model.variables)]
    pairs.append((slots.variables, optimizer.variables))
    for old, new in pairs:
        for one, other in zip(old, new, strict=True):
            np.testing.assert_array_equal(one, other)
    if name != "btf.hook.loop.LoopHook.undo":
        assert "apply" not in vars(optimizer)
    assert sys.gettrace() is None
    not_looked(health.report)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("on_nonfinite", ["skip", "raise"])
def test_fault_where_a_loop_holds_updates_back(
    on_nonfinite, eager, monkeypatch
):
    """Each update is made, and made once."""
    expected, *_ = looped(eager)
    with monkeypatch.context() as context:
        failing(context, "btf.capture.probe.LoopProbe.apply")
        with pytest.warns(GuardFaultWarning):
            model, _, health = looped(eager, watch, on_nonfinite=on_nonfinite)
    for one, other in zip(expected.variables, model.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    not_looked(health.report)


def test_report_of_no_block():
    """As that of a callback that has seen no training."""
    report = watch(make()).report
    assert not report.ok
    assert "nothing broken" not in str(report)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_fault_in_a_rewrite(eager, monkeypatch):
    """The finding is reported all the same, without a patch."""
    callback = GradHealthCallback(every=1)
    with monkeypatch.context() as context:
        failing(context, "advice.patches.rewrites")
        _, _, told = guarded(shuffled, callback, middle=Hard(), eager=eager)
    (found,) = callback.report.diagnoses
    assert "GG102" == found.code
    assert found.help and all(item.patch is None for item in found.help)
    (fault,) = told
    assert "no more checked patches" in str(fault.message)
    assert "injected" in str(fault.message)
    assert callback.report.not_checked is None
