"""A later fit runs the step that an earlier one has traced, as in Keras."""

import functools
import gc
import json
import random
import warnings
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import (
    GradGuardLoss,
    GradHealthCallback,
    GradientBreakError,
    diagnose,
)
from keras_gradguard.backend.tensorflow.hook.guarded_step import KEPT_STEP
from tests.fitting import X, Y, classifier
from tests.ways.alike import SEED, alike, optimizers, same_bits, state
from tests.ways.inside import Inside
from tests.ways.steps import Twice, adversaries
from tests.ways.test_lifecycle import loss_of
from tests.ways.test_replicas import OPTIMIZERS, model_of, strategy_of_two

BAD = X.copy()
BAD[13, 1] = np.nan


def guards(**arguments):
    """The callbacks of a guarded fit."""
    return [GradHealthCallback(**{"every": 1, **arguments})]


def batches(size):
    """Batches that are all of one size, which is in their shape."""
    data = tf.data.Dataset.from_tensor_slices((X, Y))
    return data.batch(size, drop_remainder=True)


def fitted(model, callbacks=(), x=X, y=Y, **arguments):
    """Fits two steps; returns the history."""
    arguments = {"batch_size": 8, "verbose": 0, "shuffle": False, **arguments}
    size = arguments.pop("batches", None)
    if size is not None:
        x = batches(size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        done = model.fit(x, y, callbacks=list(callbacks), **arguments)
    return done.history


def counted(traces, loss=tf.square):
    """A loss that notes each of its traces."""

    def noting(y_true, y_pred):
        traces.append(y_pred)
        return tf.reduce_mean(loss(y_true - y_pred), axis=-1)

    return noting


def made(loss="mse", **arguments):
    """A compiled model with dropout, batch statistics and metrics."""
    layers = [
        keras.layers.Dense(6, name="hidden"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Dropout(0.3, seed=3, name="drop"),
        keras.layers.Dense(3, name="head"),
    ]
    model = keras.Sequential([keras.Input((4,)), *layers], name="net")
    arguments = {"optimizer": "adam", "metrics": ["mae"], **arguments}
    model.compile(loss=loss, **arguments)
    return model


def kept_step(model):
    """What a model's train function keeps."""
    return vars(model.train_function).get(KEPT_STEP)


# --- traces -----------------------------------------------------------------

ALIKE = [
    {"every": 7},
    {"on_break": "raise"},
    {"on_break": "stop"},
    {"expect": ["head"]},
    {"thresholds": "sagemaker"},
]


def test_a_later_fit_is_not_traced(tmp_path):
    """Whatever is asked of the guard that changes nothing in the graph."""
    traces = []
    model = made(counted(traces))
    fitted(model, guards())
    first = len(traces)
    for arguments in ({}, *ALIKE, {"log_dir": tmp_path}):
        fitted(model, guards(**arguments))
    same = guards()
    for _ in range(2):
        fitted(model, same, epochs=2)
    fitted(model, [*guards(), *guards(every=3)])
    assert 0 < first == len(traces)


def test_a_loop_of_two_models_is_not_traced():
    """A GAN by hand: each model has a step of its own."""
    traces = []
    models = [made(counted(traces)), made(counted(traces))]
    for model in models:
        fitted(model, guards())
    first = len(traces)
    for _ in range(3):
        for model in models:
            fitted(model, guards())
    assert first == len(traces)


@pytest.mark.parametrize("make", [Inside, Twice, adversaries])
def test_a_step_of_the_users_own_is_not_traced(make):
    traces = []
    if make is adversaries:
        model, y = make(lambda fake: traces.append(0) or fake), None
    else:
        model, y = make(), Y
        model.compile(keras.optimizers.SGD(0.1))
        model.build((None, 4))
        call = model.call
        model.call = lambda x, **n: traces.append(0) or call(x, **n)
    fitted(model, guards(), y=y, batch_size=16)
    first = len(traces)
    for _ in range(3):
        fitted(model, guards(), y=y, batch_size=16)
    assert 0 < first == len(traces)


CHANGES = {
    "skip": lambda model: guards(on_nonfinite="skip"),
    "raise": lambda model: guards(on_nonfinite="raise"),
    "frozen": lambda model: setattr(model.layers[0], "trainable", False),
    "compiled": lambda model: model.compile("sgd", model.loss),
    "optimizer": lambda model: setattr(
        model, "optimizer", keras.optimizers.SGD()
    ),
    "steps": lambda model: setattr(model, "steps_per_execution", 2),
    "xla": lambda model: setattr(model, "jit_compile", True),
    "step": lambda model: setattr(
        model, "train_step", functools.partial(type(model).train_step, model)
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_the_graph_is_traced(name):
    traces = []
    model = made(counted(traces))
    fitted(model, guards())
    first = len(traces)
    callbacks = CHANGES[name](model)
    fitted(model, callbacks or guards())
    assert first < len(traces)
    second = len(traces)
    fitted(model, callbacks or guards())
    assert second == len(traces)


def test_histograms_are_traced(tmp_path):
    traces = []
    model = made(counted(traces))
    fitted(model, guards())
    first = len(traces)
    for number in range(2):
        log_dir = tmp_path / str(number)
        fitted(model, guards(log_dir=log_dir, scalars="histograms"))
    assert first + 1 == len(traces)


def test_an_eager_step_is_not_kept():
    model = made(run_eagerly=True)
    fitted(model, guards())
    assert {} == vars(model.train_function)


@pytest.mark.parametrize("is_bare_between", [False, True])
def test_other_batches(is_bare_between):
    """A size is traced once; each runs in the trace that Keras would run."""
    traces = []

    def make():
        traces.clear()
        return made(counted(traces))

    def train(model, callbacks):
        found = []
        for number, size in enumerate((8, 4, 8, 2, 4, 8)):
            given = callbacks
            if is_bare_between and number in (1, 2):
                given = ()
            found.append(loss_of(fitted(model, given, y=None, batches=size)))
        return found

    alike(make, train)
    if not is_bare_between:
        # For 8, and for any.
        assert 2 == len(traces)


# --- the same bits as bare Keras --------------------------------------------


def reset_optimizer(model):
    for variable in model.optimizer.variables:
        if len(variable.shape) or "iteration" in variable.path:
            variable.assign(keras.ops.zeros_like(variable))


def loaded(model, path):
    name = str(path / "some.weights.h5")
    model.save_weights(name)
    fitted(model)
    model.load_weights(name)


class Interrupted(Exception):
    """What another callback raises."""


def interrupted(model, callbacks, error=KeyboardInterrupt):
    def stop(*_, **__):
        raise error

    other = keras.callbacks.LambdaCallback(on_train_batch_end=stop)
    with pytest.raises(error):
        fitted(model, [*callbacks, other])


BETWEEN = {
    "nothing": lambda model, callbacks, path: None,
    "bare": lambda model, callbacks, path: fitted(model),
    "batch": lambda model, callbacks, path: model.train_on_batch(X, Y),
    "optimizer": lambda model, callbacks, path: reset_optimizer(model),
    "weights": lambda model, callbacks, path: loaded(model, path),
    "interrupted": lambda model, callbacks, path: interrupted(model, callbacks),
    "failed": lambda model, callbacks, path: interrupted(
        model, callbacks, Interrupted
    ),
    "clone": lambda model, callbacks, path: keras.models.clone_model(model),
    "saved": lambda model, callbacks, path: model.save(path / "some.keras"),
    "two": lambda model, callbacks, path: fitted(
        model, [*callbacks, *(guards(every=3) if callbacks else ())]
    ),
    "rate": lambda model, callbacks, path: setattr(
        model.optimizer, "learning_rate", 0.05
    ),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_same_bits(name, tmp_path):
    def train(model, callbacks):
        found = []
        for _ in range(3):
            found.append(loss_of(fitted(model, callbacks, epochs=2)))
            BETWEEN[name](model, callbacks, tmp_path)
        return found

    alike(made, train, *guards())


def test_same_bits_with_diagnose_between():
    def train(model, callbacks):
        found = []
        for _ in range(3):
            found.append(loss_of(fitted(model, callbacks)))
            if callbacks:
                diagnose(model, X, Y)
        return found

    alike(made, train)


@pytest.mark.parametrize("kind", ["sgd", "mixed", "xla", "two steps", "skip"])
def test_same_bits_of_a_kind(kind):
    arguments = {
        "xla": {"jit_compile": True},
        "two steps": {"steps_per_execution": 2},
    }.get(kind, {"optimizer": "sgd"})

    def make():
        known = dict(arguments)
        if kind == "mixed":
            inner = keras.optimizers.SGD(0.1)
            known["optimizer"] = keras.optimizers.LossScaleOptimizer(inner)
        return made(**known)

    def train(model, callbacks):
        return [loss_of(fitted(model, callbacks)) for _ in range(3)]

    mode = "skip" if kind == "skip" else "warn"
    model, callback = alike(make, train, *guards(on_nonfinite=mode))
    assert kept_step(model) is not None
    assert () == callback.report.diagnoses


def test_numbers_that_a_trace_draws():
    """They are constants of the first trace, in the guarded fits as well."""
    draws = []

    def loss(y_true, y_pred):
        drawn = random.random() + np.random.normal()
        draws.append(drawn)
        return tf.reduce_mean(tf.square(y_true - y_pred + drawn), axis=-1)

    def make():
        draws.clear()
        random.seed(SEED)
        return made(loss)

    def train(model, callbacks):
        found = [loss_of(fitted(model, callbacks)) for _ in range(3)]
        return found, list(draws), random.random(), np.random.normal()

    alike(make, train)
    assert 2 == len(draws)


# --- the same reports as with a new trace -----------------------------------


class Loose(keras.layers.Layer):
    """Has a weight that it does not use."""

    def build(self, shape):
        """Makes it."""
        self.loose = self.add_weight(shape=(2,), name="loose")

    def call(self, x):
        """Passes on."""
        return x


def rounded(y_true, y_pred):
    """Is cut."""
    return tf.reduce_mean(tf.square(y_true - tf.round(y_pred)), axis=-1)


def heads(second="mse"):
    """Two outputs, one trunk, a regulariser."""
    inputs = keras.Input((4,))
    trunk = keras.layers.Dense(
        5, name="trunk", kernel_regularizer=keras.regularizers.L2(0.01)
    )(inputs)
    outputs = [keras.layers.Dense(3, name=name)(trunk) for name in "ab"]
    model = keras.Model(inputs, outputs, name="heads")
    model.compile("sgd", ["mse", second])
    return model


def words():
    """An embedding, whose gradient has the rows that were read alone."""
    layers = [
        keras.layers.Embedding(9, 4, name="table"),
        keras.layers.Flatten(name="flat"),
    ]
    model = keras.Sequential([keras.Input((3,)), *layers], name="words")
    model.compile("adam", "mse")
    return model


def clipped():
    return made(optimizer=keras.optimizers.SGD(0.1, clipnorm=0.01))


def scaled():
    inner = keras.optimizers.SGD(0.1)
    return made(
        optimizer=keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    )


def own(kind):
    def make():
        model = kind()
        model.compile(keras.optimizers.SGD(0.1))
        model(X)
        return model

    return make


def gate(y_true, y_pred):
    """Jumps where a prediction passes the half."""
    error = tf.square(y_true - y_pred)
    return tf.reduce_mean(tf.where(y_pred > 0.5, error + 3.0, error), axis=-1)


WORDS = np.arange(48).reshape(16, 3) % 9
REPORTS = {
    "healthy": (made, {}),
    "unused": (lambda: classifier("mse", middle=Loose(name="own")), {}),
    "expected": (
        lambda: classifier("mse", middle=Loose(name="own")),
        {"expect": ["loose"]},
    ),
    "two heads": (heads, {"y": [Y, Y]}),
    "cut head": (lambda: heads(rounded), {"y": [Y, Y]}),
    "warning loss": (
        lambda: heads(GradGuardLoss(rounded, on_break="warn")),
        {"y": [Y, Y]},
    ),
    "words": (words, {"x": WORDS, "y": np.ones((16, 12))}),
    "clipped": (clipped, {}),
    "scaled": (scaled, {}),
    "gan": (adversaries, {"y": None, "batch_size": 16}),
    "twice": (own(Twice), {}),
    "function": (own(Inside), {}),
    "jump": (lambda: made(gate), {}),
    "bad": (made, {"x": BAD}),
    "bad, skipped": (made, {"x": BAD, "on_nonfinite": "skip"}),
    "bad, stopped": (made, {"x": BAD, "on_nonfinite": "stop"}),
    "bad, two steps": (
        lambda: made(steps_per_execution=2),
        {"x": BAD, "epochs": 2},
    ),
    "bad, compiled": (lambda: made(jit_compile=True), {"x": BAD}),
    "histograms": (made, {"scalars": "histograms"}),
}
OWN = ("expect", "on_break", "on_nonfinite", "scalars")


def reports(make, arguments, folder, is_kept):
    """Reports, histories and incidents of three fits, and what is left.

    The second one is on other data, and the third one on the first data.
    """
    # Names are given anew.
    keras.utils.clear_session()
    keras.utils.set_random_seed(SEED)
    model, found = make(), []
    own = {name: arguments[name] for name in OWN if name in arguments}
    others = {k: v for k, v in arguments.items() if k not in own}
    begun = state(model) if model.built else None
    for number in range(3):
        if not is_kept and model.train_function is not None:
            vars(model.train_function).pop(KEPT_STEP, None)
        log_dir = folder / f"{is_kept}" / f"{number}"
        callback = GradHealthCallback(log_dir, every=1, **own)
        given = dict(others)
        if number == 1 and given.get("x") is BAD:
            given["x"] = X
        history = fitted(model, [callback], **given)
        text = callback.report.to_json().replace(str(log_dir), "logs")
        report = json.loads(text)
        files = sorted(
            str(path.relative_to(log_dir)) for path in log_dir.rglob("*.json")
        )
        for loss in report["losses"]:
            # Measured on the first batch of the first fit.
            assert loss.pop("step") in (0, None) or not is_kept
            del loss["norms"]
        for diagnosis in report["diagnoses"]:
            if diagnosis["kind"] == "discontinuous":
                del diagnosis["evidence"], diagnosis["message"]
        found.append((report, history, files))
        if begun is not None:
            # The weights of a bad step are NaN.
            reset_optimizer(model)
            for variable, value in zip(model.variables, begun, strict=False):
                variable.assign(value)
    return model, found


@pytest.mark.parametrize("name", REPORTS)
def test_same_reports(name, tmp_path):
    """What a later fit reports is what it would with a trace of its own."""
    make, arguments = REPORTS[name]
    model, found = reports(make, arguments, tmp_path, is_kept=True)
    assert kept_step(model) is not None
    again, expected = reports(make, arguments, tmp_path, is_kept=False)
    np.testing.assert_equal(found, expected)
    same_bits(again, model)
    if name.startswith("bad"):
        told = [bool(report["diagnoses"]) for report, *_ in found]
        assert [True, False, True] == told
        assert [bool(files) for *_, files in found] == [True, False, True]


@pytest.mark.parametrize("on_break", ["warn", "raise", "stop"])
@pytest.mark.parametrize("cut", ["unused", "head"])
def test_a_cut_is_told_of_in_each_fit(on_break, cut):
    """Also by a callback that acts on it, before any weight moves."""
    if cut == "unused":
        model, y = classifier("mse", middle=Loose(name="own")), Y
    else:
        model, y = heads(rounded), [Y, Y]
    with pytest.warns(UserWarning, match="GG"):
        model.fit(X, y, verbose=0, callbacks=guards())
    assert kept_step(model) is not None
    before = state(model)
    (callback,) = guards(on_break=on_break)
    if on_break == "raise":
        with pytest.raises(GradientBreakError) as raised:
            model.fit(X, y, verbose=0, callbacks=[callback])
        assert raised.value.report.diagnoses
        for old, new in zip(before, state(model), strict=True):
            np.testing.assert_array_equal(old, new)
        assert kept_step(model) is None
    else:
        with pytest.warns(UserWarning, match="GG"):
            model.fit(
                X, y, batch_size=8, epochs=3, verbose=0, callbacks=[callback]
            )
        steps = int(model.optimizer.iterations) - 1
        assert steps == (1 if on_break == "stop" else 6)
    assert callback.report.diagnoses
    assert 0 == callback.report.diagnoses[0].step - 1


def test_a_trace_that_raised_is_not_kept():
    """It raises in each fit, before any weight moves."""
    traces = []
    model = made(counted(traces, tf.round))
    before = state(model)
    for _ in range(2):
        known = len(traces)
        with pytest.raises(GradientBreakError):
            fitted(model, guards(on_break="raise"))
        assert known < len(traces)
        assert {} == vars(model.train_function)
    for old, new in zip(before, state(model), strict=False):
        np.testing.assert_array_equal(old, new)


def test_a_loss_that_stops_stops_each_fit():
    """As it did with a trace of its own; bare Keras would train on."""
    guarded = GradGuardLoss(rounded, on_break="stop")
    model = heads(guarded)
    for _ in range(2):
        fitted(model, guards(), y=[Y, Y], epochs=3)
    assert 2 == int(model.optimizer.iterations)


def test_an_update_that_was_left_out_is_not_kept():
    """A stopped fit without gradients has no update in its trace."""
    model = made(rounded)
    fitted(model, guards(on_break="stop"))
    assert kept_step(model) is None
    with pytest.raises(GradientBreakError):
        fitted(model, guards())


@pytest.mark.parametrize("batch_size", [8, 16])
@pytest.mark.parametrize("on_nonfinite", ["warn", "skip"])
def test_a_model_that_the_first_step_builds(on_nonfinite, batch_size):
    """A trace without the statistics of layers is not run once more."""
    traces, callbacks = [], []
    keras.utils.set_random_seed(SEED)
    layers = [keras.layers.Dense(3), keras.layers.BatchNormalization()]
    model = keras.Sequential([*layers, Loose(name="own")])
    model.compile("sgd", counted(traces))
    for number in range(4):
        known = len(traces)
        callbacks += guards(on_nonfinite=on_nonfinite)
        fitted(model, callbacks[-1:], batch_size=batch_size)
        assert number < 2 or known == len(traces)
    before = state(model)
    for callback in callbacks:
        (found,) = callback.report.diagnoses
        assert found.variables[0].endswith("own/loose")
    fitted(model, callbacks[-1:], x=BAD, batch_size=16)
    if on_nonfinite == "skip":
        for old, new in zip(before, state(model), strict=True):
            np.testing.assert_array_equal(old, new)


def adversaries_by_hand(model, callbacks):
    """The judge is frozen in the model of both, as that was once done."""
    judge, both = model.layers[-1], model
    found = []
    for _ in range(3):
        judge.trainable = True
        found.append(loss_of(fitted(judge, callbacks, y=Y[:, :1])))
        judge.trainable = False
        found.append(loss_of(fitted(both, callbacks, y=Y[:, :1])))
    return found


def test_a_judge_that_is_frozen_now_and_then():
    traces = []

    def make():
        traces.clear()
        judge = keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(1, name="judging")]
        )
        judge.compile(keras.optimizers.SGD(0.1), counted(traces))
        judge.trainable = False
        forger = keras.layers.Dense(4, name="forging")
        both = keras.Sequential([keras.Input((4,)), forger, judge])
        both.compile(keras.optimizers.SGD(0.1), counted(traces))
        return both

    model, callback = alike(make, adversaries_by_hand)
    assert 2 == len(traces)
    assert () == callback.report.diagnoses


# --- several replicas -------------------------------------------------------


@pytest.mark.parametrize("is_cut", [False, True])
def test_several_replicas(is_cut):
    """Their step is kept as well; a size of batches is traced once."""
    found = []
    for is_guarded in (False, True):
        traces, known = [], []
        model = model_of(OPTIMIZERS["adam"], False, counted(traces))
        if is_cut:
            with strategy_of_two().scope():
                model.add(Loose(name="own"))
                model.compile("adam", counted(traces))
        for size in (16, 8, 16, 8, 16):
            callbacks = guards() if is_guarded else []
            fitted(model, callbacks, y=None, batches=size)
            known.append(len(traces))
            for callback in callbacks:
                rows = callback.report.variables
                is_lost = ["missing" == row.status for row in rows]
                assert is_lost == [False] * 4 + [True] * is_cut
                assert is_cut == bool(callback.report.diagnoses)
        found.append(state(model))
        assert known[0] < known[1] == known[-1]
    for bare, guarded in zip(*found, strict=True):
        np.testing.assert_array_equal(bare, guarded)


# --- nothing is left --------------------------------------------------------


@pytest.mark.parametrize(
    "make", [made, own(Inside), adversaries, lambda: made(jit_compile=True)]
)
def test_the_model_is_freed(make):
    """What is kept holds neither model, optimizer nor callback."""
    model = make()
    y = None if make is adversaries else Y
    callbacks = [guards() for _ in range(3)]
    for given in callbacks:
        fitted(model, given, y=y, batch_size=16)
    assert kept_step(model) is not None
    model.history = None
    seen = [weakref.ref(given[0]) for given in callbacks]
    del callbacks, given
    gc.collect()
    assert [None] * 3 == [reference() for reference in seen]
    seen = [weakref.ref(part) for part in (model, *optimizers(model))]
    seen.append(weakref.ref(kept_step(model)[0]))
    del model
    gc.collect()
    assert [None] * len(seen) == [reference() for reference in seen]


def test_the_step_goes_with_a_compile():
    """And with the train function of Keras it is gone."""
    model = made()
    fitted(model, guards())
    seen = weakref.ref(kept_step(model)[0])
    model.compile("sgd", "mse")
    gc.collect()
    assert seen() is None


def test_a_guard_that_failed_is_not_kept(monkeypatch):
    """Its trace may lack what had to be in it."""
    monkeypatch.setenv("KERAS_GRADGUARD_STRICT", "0")
    model = made()

    def fail(*_):
        raise RuntimeError("on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(
            "keras_gradguard.backend.tensorflow.capture.probe.Probe.end", fail
        )
        with pytest.warns(UserWarning, match="GG900"):
            model.fit(X, Y, verbose=0, callbacks=guards())
    assert {} == vars(model.train_function)
    (callback,) = guards()
    fitted(model, [callback])
    assert {"ok"} == {row.status for row in callback.report.variables}


def test_the_batch_is_let_go():
    """Between two fits no batch uses memory, nor do weights of a bad step."""
    model = made()
    fitted(model, guards(), x=BAD)
    probe = kept_step(model)[0].probe
    buffers = [*probe._batch_keeper._buffers]
    buffers += probe._bad_step._snapshot._weights.values()
    assert buffers
    assert {0} == {int(tf.size(buffer)) for buffer in buffers}
