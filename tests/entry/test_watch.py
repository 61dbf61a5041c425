"""`watch`: numbers, weights, what it leaves behind, and healthy loops."""

import pathlib
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_file_loader import (
    EventFileLoader,
)

from keras_gradguard import GradientBreakError, GradientBreakWarning, watch
from keras_gradguard.errors import GuardFaultWarning
from keras_gradguard.report.cards import VERDICT_CARD
from tests.looping import MODES, X, Y, compiled, loop, network, trainer


def mse(y, p):
    """Cuts nothing."""
    return tf.reduce_mean(tf.square(y - p))


def norm_tags(folder):
    """Returns `{step: number of values}` of all records below a folder."""
    found = {}
    for path in pathlib.Path(folder).rglob("events*"):
        for event in EventFileLoader(str(path)).Load():
            tags = {v.tag for v in event.summary.value} - {VERDICT_CARD}
            number = sum(tag.startswith("gradients/") for tag in tags)
            if number and event.step not in found:
                found[event.step] = number
    return found


@pytest.fixture(autouse=True)
def no_finding():
    """A diagnosis in a healthy loop fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", GradientBreakWarning)
        yield


@pytest.mark.parametrize(
    ("mode", "on_nonfinite"),
    [("eager", "warn"), ("graph", "skip"), ("xla", "stop"), ("eager", "skip")],
)
def test_weights_are_bit_identical_and_norms_are_the_tapes(mode, on_nonfinite):
    """Dropout and Adam, clipped, under a loss scale of the user's own."""
    weights = []
    for is_watched in (False, True):
        keras.utils.set_random_seed(1)
        model = network(keras.layers.Dropout(0.5))
        optimizer = keras.optimizers.Adam(0.01, clipnorm=0.1)

        def step(x, y, model=model, optimizer=optimizer):
            with tf.GradientTape() as tape:
                value = mse(y, model(x, training=True))
            variables = model.trainable_variables
            gradients = tape.gradient(value, variables)
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
            return [tf.norm(gradient) for gradient in gradients]

        step = compiled(step, mode)
        if is_watched:
            with watch(model, every=4, on_nonfinite=on_nonfinite) as health:
                expected = [step(X, Y) for _ in range(9)][-1]
        else:
            expected = [step(X, Y) for _ in range(9)][-1]
        weights.append(
            [v.numpy() for v in (*model.variables, *optimizer.variables)]
        )
    for bare, watched in zip(*weights, strict=True):
        np.testing.assert_array_equal(bare, watched)
    assert health.report.ok
    assert 8 == health.report.step
    actual = [row.norm for row in health.report.variables]
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    assert all(row.update_ratio > 0 for row in health.report.variables)
    assert "apply" not in vars(optimizer)


@pytest.mark.parametrize("mode", MODES)
def test_records(mode, tmp_path):
    """One event for each record, also of a step without any Python in it."""
    model = network()
    step, _ = trainer(model, mse, mode)
    with watch(model, log_dir=tmp_path, every=5):
        for _ in range(18):
            step(X, Y)
    assert {0: 8, 5: 8, 10: 8, 15: 8} == norm_tags(tmp_path)


def test_records_beyond_the_room(tmp_path):
    """The oldest ones are lost, unless `step` is called."""
    model = network()
    step, _ = trainer(model, mse, "graph")
    with watch(model, log_dir=tmp_path, every=1) as health:
        for _ in range(700):
            step(X, Y)
            health.step()
    assert list(range(700)) == sorted(norm_tags(tmp_path))


def test_loss_scale():
    """The norms are those of the unscaled gradient."""
    model = network()
    inner = keras.optimizers.SGD(0.01)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, 1024.0)
    norms = []

    @tf.function
    def step(x, y):
        with tf.GradientTape(persistent=True) as tape:
            value = mse(y, model(x, training=True))
            scaled = optimizer.scale_loss(value)
        optimizer.apply(
            tape.gradient(scaled, model.trainable_variables),
            model.trainable_variables,
        )
        plain = tape.gradient(value, model.trainable_variables)
        return [tf.norm(gradient) for gradient in plain]

    with watch(model, every=1) as health:
        for _ in range(3):
            norms = step(X, Y)
    actual = [row.norm for row in health.report.variables]
    np.testing.assert_allclose(actual, norms, rtol=1e-5)
    assert "apply" not in vars(inner)


def penalty(model, optimizer):
    """A gradient penalty: a tape in a tape, and one for the inputs."""

    def step(x, y):
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                inner.watch(x)
                p = model(x, training=True)
            slope = inner.gradient(p, x)
            value = mse(y, p) + tf.reduce_mean(tf.square(slope))
        gradients = outer.gradient(value, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    return step


def persistent(model, optimizer):
    """Two optimizers and one persistent tape."""
    other = keras.optimizers.SGD()
    hidden, head = model.layers

    def step(x, y):
        with tf.GradientTape(persistent=True) as tape:
            value = mse(y, model(x, training=True))
        for part, own in ((hidden, optimizer), (head, other)):
            gradients = tape.gradient(value, part.trainable_variables)
            own.apply(gradients, part.trainable_variables)
        del tape

    return step


def two_tapes(model, optimizer):
    """Each part has its own tape and its own forward pass."""
    other = keras.optimizers.SGD()
    hidden, head = model.layers

    def step(x, y):
        for part, own in ((hidden, optimizer), (head, other)):
            with tf.GradientTape() as tape:
                value = mse(y, model(x, training=True))
            gradients = tape.gradient(value, part.trainable_variables)
            own.apply(gradients, part.trainable_variables)

    return step


def accumulated(model, optimizer):
    """Gradients of four small batches, added up and clipped by hand."""

    def step(x, y):
        total = [tf.zeros_like(v) for v in model.trainable_variables]
        for part, target in zip(tf.split(x, 4), tf.split(y, 4), strict=True):
            with tf.GradientTape() as tape:
                value = mse(target, model(part, training=True))
            gradients = tape.gradient(value, model.trainable_variables)
            total = [a + b for a, b in zip(total, gradients, strict=True)]
        total, _ = tf.clip_by_global_norm(total, 1.0)
        optimizer.apply(total, model.trainable_variables)

    return step


def frozen(model, optimizer):
    """The first layer is not trained."""
    model.layers[0].trainable = False
    return plain(model, optimizer)


def plain(model, optimizer):
    """What tutorials have, with figures read out to be shown."""

    def step(x, y):
        with tf.GradientTape() as tape:
            p = model(x, training=True)
            value = mse(y, p)
            hits = tf.equal(tf.argmax(p, -1), tf.argmax(y, -1))
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        if tf.executing_eagerly():
            print(f"{float(value):.3f}", np.mean(hits), p.numpy().max())

    return step


def built_here(model, optimizer):
    """The optimizer is made in the block."""
    del optimizer
    known = []

    def step(x, y):
        if not known:
            known.append(keras.optimizers.Adam())
        return plain(model, known[0])(x, y)

    return step


def by_variables(model, optimizer):
    """The optimizer knows its variables from `build`."""
    optimizer.build(model.trainable_variables)

    def step(x, y):
        with tf.GradientTape() as tape:
            value = mse(y, model(x, training=True))
        optimizer.apply(tape.gradient(value, model.trainable_variables))

    return step


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize(
    "make",
    [penalty, persistent, two_tapes, accumulated, frozen, plain, by_variables],
)
def test_healthy_loops_are_silent(make, mode):
    """No finding, and a norm for each trainable variable."""
    model = network(activation="tanh")
    step = compiled(make(model, keras.optimizers.Adam()), mode)
    health, error = loop(model, step, turns=4)
    assert error is None
    assert () == health.report.diagnoses
    assert len(model.trainable_variables) == len(health.report.variables)
    assert all(row.norm > 0 for row in health.report.variables)


def test_optimizer_made_in_the_block():
    """It is seen as it is made."""
    model = network()
    health, error = loop(model, built_here(model, None))
    assert error is None
    assert 2 == health.report.step


@pytest.mark.parametrize("mode", MODES)
def test_two_models_in_one_loop(mode):
    """Each `watch` sees its own model's variables."""
    first, second = network(), network()
    ours, theirs = keras.optimizers.Adam(), keras.optimizers.Adam()

    @(lambda step: compiled(step, mode))
    def step(x, y):
        with tf.GradientTape(persistent=True) as tape:
            fake = first(x, training=True)
            good = mse(y, second(tf.pad(fake, [[0, 0], [0, 1]]), training=True))
            bad = -good
        ours.apply(
            tape.gradient(good, first.trainable_variables),
            first.trainable_variables,
        )
        theirs.apply(
            tape.gradient(bad, second.trainable_variables),
            second.trainable_variables,
        )

    with watch(first, every=1) as one, watch(second, every=1) as two:
        for _ in range(3):
            step(X, Y)
    for health in (one, two):
        assert health.report.ok
        assert 4 == len(health.report.variables)
        assert all(row.norm > 0 for row in health.report.variables)
        assert 2 == health.report.step
    assert "apply" not in vars(ours) | vars(theirs)


def test_other_models_are_left_alone():
    """A cut in a model that is not watched is not reported."""
    watched, other = network(), network()
    step, _ = trainer(watched, mse)
    cut, _ = trainer(other, lambda y, p: tf.reduce_mean(tf.round(p)))
    with watch(watched) as health:
        step(X, Y)
        with pytest.raises(ValueError, match="No gradients") as caught:
            cut(X, Y)
    assert not isinstance(caught.value, GradientBreakError)
    assert health.report.ok


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_left_behind(error):
    """After any exception the optimizer is as before."""
    model = network()
    step, optimizer = trainer(model, mse)
    before = dict(vars(model))
    with pytest.raises(error) as caught:
        with watch(model):
            step(X, Y)
            raise error("stop")
    assert not hasattr(caught.value, "__notes__")
    assert "apply" not in vars(optimizer)
    assert before.keys() == vars(model).keys()


@pytest.mark.parametrize("mode", ["graph", "xla"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_exception_loses_no_record(error, mode, tmp_path):
    """Those that wait in the graph are written as the block ends."""
    model = network()
    step, _ = trainer(model, mse, mode)
    with pytest.raises(error):
        with watch(model, tmp_path, every=1) as health:
            for _ in range(3):
                step(X, Y)
            raise error("stop")
    assert [0, 1, 2] == sorted(norm_tags(tmp_path))
    assert ["ok"] * 4 == [row.status for row in health.report.variables]


def test_records_behind_a_finding_are_written(tmp_path):
    """Also those that had been read as it was raised."""
    model = network()
    step, _ = trainer(model, mse, "graph")
    limits = {"patience": 1, "exploding_mean": 1e-9, "exploding_growth": 0}
    with pytest.raises(GradientBreakError):
        with watch(
            model, tmp_path, 1, on_break="raise", thresholds=limits
        ) as health:
            for _ in range(3):
                step(X, Y)
            health.step()
    assert [0, 1, 2] == sorted(norm_tags(tmp_path))


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_a_step_measures_nothing_after_the_block(mode):
    """Its updates go on, its records do not."""
    model = network()
    step, optimizer = trainer(model, mse, mode)
    with watch(model, every=1, on_nonfinite="stop") as health:
        step(X, Y)
    before = health.report
    weights = model.get_weights()
    step(X * float("nan"), Y)
    assert 2 == int(optimizer.iterations)
    assert np.isnan(model.get_weights()[0]).any()
    assert not np.isnan(weights[0]).any()
    assert before == health.report


def test_a_step_traced_before_the_block():
    """It cannot be seen, and the user is told how to mend that."""
    model = network()
    step, _ = trainer(model, mse, "graph")
    step(X, Y)
    with pytest.warns(
        UserWarning, match="called before the block keeps its earlier trace"
    ):
        with watch(model):
            step(X, Y)


@pytest.mark.parametrize(
    ("mode", "action"),
    [
        ("eager", "skip"),
        ("eager", "stop"),
        ("eager", "raise"),
        ("graph", "skip"),
        ("graph", "raise"),
        ("xla", "stop"),
    ],
)
def test_nonfinite_updates_are_left_out(mode, action):
    """The weights stay finite; what the block then does depends."""
    model = network()
    step, optimizer = trainer(model, mse, mode)
    error, turns = None, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GradientBreakWarning)
        health = watch(model, every=1, on_nonfinite=action)
        try:
            with health:
                for turn in range(5):
                    turns = turn
                    step(X * float("nan") if turn == 2 else X, Y)
                    health.step()
        except GradientBreakError as raised:
            error = raised
    assert np.isfinite(model.get_weights()[0]).all()
    assert (4 if action == "skip" else 2) == int(optimizer.iterations)
    assert (4 if action == "skip" else 2) == turns
    assert (action == "raise") == (error is not None)
    assert (action == "stop") == health.stopped
    (found,) = health.report.diagnoses
    assert "GG230" == found.code
    assert 2 == found.step
    assert "suspected" == found.certainty


@pytest.mark.parametrize(
    "arguments",
    [
        {"every": 0},
        {"on_break": "skip"},
        {"on_nonfinite": "no"},
        {"expect": "("},
    ],
)
def test_wrong_arguments(arguments):
    """They are refused at once."""
    with pytest.raises(ValueError, match="Received"):
        watch(network(), **arguments)


def test_expected():
    """What is meant to get no gradient is silent."""
    model = network(keras.layers.Lambda(tf.floor))
    health, error = loop(model, trainer(model, mse)[0], expect="hidden/")
    assert error is None
    assert () == health.report.diagnoses


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize(
    "name",
    [
        "keras_gradguard.backend.tensorflow.tracing.recorder.Recording.add_op",
        "keras_gradguard.backend.tensorflow.tracing.observer.LiveObserver._layer",
        "keras_gradguard.backend.tensorflow.capture.probe.LoopProbe.before_apply",
        "keras_gradguard.backend.tensorflow.hook.loop.FirstStep.note_update",
    ],
)
def test_a_fault_of_the_tool_stops_nothing(name, mode, monkeypatch):
    """It is reported once, as GG900, and the loop goes on."""

    def fail(*arguments, **named):
        raise ZeroDivisionError

    monkeypatch.setenv("KERAS_GRADGUARD_STRICT", "0")
    if name.endswith("Recording.add_op") and mode == "graph":
        pytest.skip("no op runs eagerly")
    model = network()
    step, optimizer = trainer(model, mse, mode)
    monkeypatch.setattr(name, fail)
    with pytest.warns(GuardFaultWarning) as caught:
        with watch(model):
            for _ in range(3):
                step(X, Y)
    assert 1 == sum(w.category is GuardFaultWarning for w in caught)
    assert 3 == int(optimizer.iterations)
    assert "apply" not in vars(optimizer)
