"""What makes an update NaN or Inf is kept out of the weights and slots."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_gradguard import GradHealthCallback, GradientBreakError, watch
from tests.fitting import X, Y, marked

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
MODES = {
    "graph": {},
    "eager": {"run_eagerly": True},
    "xla": {"jit_compile": True},
    "two": {"steps_per_execution": 2},
}
OPTIMIZERS = {
    name: getattr(keras.optimizers, name)
    for name in (
        "SGD",
        "RMSprop",
        "Adam",
        "AdamW",
        "Adadelta",
        "Adagrad",
        "Adamax",
        "Adafactor",
        "Nadam",
        "Ftrl",
        "Lion",
        "Lamb",
        "Muon",
        "ScheduleFreeAdamW",
    )
    if hasattr(keras.optimizers, name)
}


class Late(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that goes bad at the third update."""

    def __init__(self, bad):
        self.bad = bad

    def __call__(self, step):
        return ops.where(ops.equal(ops.cast(step, "int32"), 2), self.bad, 1e-3)


class Spoiling(keras.constraints.Constraint):
    """Divides by a norm that is zero."""

    def __call__(self, w):
        return w / ops.maximum(0.0, 0.0 * ops.sum(w))


def huge(y_true, y_pred):
    """Its gradients are finite, and the squares of some are not.

    Those of the third batch, whose targets are large.
    """
    size = ops.where(ops.max(y_true) > 50.0, 1e20, 1.0)
    return size * ops.mean(ops.square(y_true - y_pred) / 1e2)


TARGETS = np.concatenate([Y[:8], Y[8:12] + 100.0, Y[12:]])


def model_of(optimizer, mode="graph", loss=huge, constraint=None):
    """A small model with state that each step changes."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, kernel_constraint=constraint),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(3),
        ]
    )
    model.compile(optimizer, loss, metrics=["mae"], **MODES[mode])
    return model


def state_of(model):
    """All that a step may change."""
    kept = [*model.variables, *model.optimizer.variables]
    return [np.array(variable) for variable in kept]


def fit(model, y=TARGETS, **arguments):
    """Four batches; returns the callback."""
    callback = GradHealthCallback(every=1, **arguments)
    model.fit(
        *(X, y),
        batch_size=4,
        shuffle=False,
        verbose=0,
        callbacks=[callback],
    )
    return callback


def assert_finite(model):
    """Weights, statistics and slots are numbers."""
    for value in state_of(model):
        assert np.isfinite(value).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(name):
    """Gradients of 1e19 and more, and the training goes on."""
    model = model_of(OPTIMIZERS[name](1e-3))
    callback = fit(model, on_nonfinite="skip")
    assert_finite(model)
    # Those that square nothing make a large step instead.
    if name in ("RMSprop", "Adam", "Adagrad", "Nadam"):
        assert "GG233" in [d.code for d in callback.report.diagnoses]


def spoiled_loss(fault):
    """A loss with a fault for the third batch, whose targets are large."""

    def loss(y_true, y_pred):
        value = ops.mean(ops.square(y_true - y_pred)) / 1e2
        is_third = ops.max(y_true) > 50.0
        if fault == "gradient":
            return value * ops.where(is_third, np.nan, 1.0)
        if fault == "loss":
            return value + ops.log(ops.where(is_third, -1.0, 1.0))
        return value * ops.where(is_third, 1e20, 1.0)

    return loss


# How many updates are good before the one that each fault spoils.
FAULTS = {
    "gradient": 2,
    "loss": 2,
    "square": 2,
    "rate": 2,
    "infinite_rate": 2,
    "norm": 2,
    "decay": 0,
    "constraint": 0,
}
THREE = ("graph", "eager", "xla")


def cells():
    """Each optimizer with each fault; each twelfth one runs by default."""
    for row, name in enumerate(OPTIMIZERS):
        for column, fault in enumerate(FAULTS):
            for number, mode in enumerate(THREE):
                is_default = (row + column + 4 * number) % 12 == 0
                marks = [] if is_default else [pytest.mark.slow]
                yield pytest.param(name, fault, mode, marks=marks)


def faulty_model(name, fault, mode):
    """A small model that has the fault."""
    known = {"rate": np.nan, "infinite_rate": np.inf}
    rate = Late(known[fault]) if fault in known else 1e-3
    given = {"norm": {"global_clipnorm": 1.0}, "decay": {"weight_decay": 3e38}}
    if fault == "decay":
        rate = 1e2
    optimizer = OPTIMIZERS[name](rate, **given.get(fault, {}))
    constraint = Spoiling() if fault == "constraint" else None
    loss = spoiled_loss("square" if fault == "norm" else fault)
    if fault not in ("gradient", "loss", "square", "norm"):
        loss = "mse"
    return model_of(optimizer, mode, loss, constraint)


@pytest.mark.parametrize(("name", "fault", "mode"), list(cells()))
def test_every_optimizer_with_every_fault(name, fault, mode):
    """`stop` leaves all as it was before the update that is not finite."""
    good = FAULTS[fault]
    expected = faulty_model(name, fault, mode)
    if good:
        count = 4 * good
        expected.fit(
            *(X[:count], TARGETS[:count]),
            **{"batch_size": 4, "shuffle": False, "verbose": 0},
        )
    model = faulty_model(name, fault, mode)
    callback = fit(model, on_nonfinite="stop")
    assert_finite(model)
    found = [d for d in callback.report.diagnoses if d.severity == "error"]
    if not found:
        # An update of gradients as large as that may well be finite.
        assert fault in ("square", "norm", "infinite_rate"), callback.report
        return
    assert {good} == {d.step for d in found}
    pairs = zip(expected.variables, model.variables, strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    if not good:
        return
    slots = expected.optimizer.variables, model.optimizer.variables
    for one, other in zip(*slots, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=str)
def test_learning_rate(mode, bad):
    """The third step is left out, and three others are made."""
    model = model_of(keras.optimizers.SGD(Late(bad)), mode, "mse")
    callback = fit(model, Y, on_nonfinite="skip")
    assert_finite(model)
    # The rate itself is named.
    assert "GG317" in [d.code for d in callback.report.diagnoses]


@pytest.mark.parametrize("mode", ["graph", "eager", "xla"])
@pytest.mark.parametrize("action", ["stop", "raise"])
def test_as_before_the_bad_step(mode, action):
    """Two steps were good: all is as after two batches without the guard."""
    expected = model_of("adam", mode)
    expected.fit(X[:8], TARGETS[:8], batch_size=4, shuffle=False, verbose=0)
    model = model_of("adam", mode)
    try:
        fit(model, on_nonfinite=action)
    except GradientBreakError as error:
        assert "raise" == action
        assert "GG233" in str(error)
    # The metrics are reset by nobody.
    for one, other in zip(state_of(expected), state_of(model), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.SGD(1e-3, global_clipnorm=1.0),
        keras.optimizers.Adam(1e-3, weight_decay=1e39),
    ],
    ids=["clipped", "decayed"],
)
def test_clipping_and_decay(optimizer):
    """An Inf norm, and a decay that leaves the range."""
    model = model_of(optimizer)
    fit(model, on_nonfinite="skip")
    assert_finite(model)


def test_constraint():
    """One that divides by 0 spoils a weight after the update."""
    model = model_of("sgd", loss="mse", constraint=Spoiling())
    callback = fit(model, Y, on_nonfinite="skip")
    assert_finite(model)
    assert "GG233" in [d.code for d in callback.report.diagnoses]


def test_finding():
    """What is known is told: the slots, the gradient, the rate."""
    callback = fit(model_of("adam"), on_nonfinite="skip")
    found = next(d for d in callback.report.diagnoses if d.code == "GG233")
    assert 2 == found.step
    assert found.evidence["largest_gradient"] > 1e19
    assert any("velocity" in n for n in found.evidence["optimizer_state"])
    assert found.evidence["learning_rate"] == pytest.approx(1e-3)


def test_same_bits():
    """A training in which nothing is taken back is what it was."""
    weights = []
    for arguments in ({}, {"on_nonfinite": "skip"}):
        model = model_of("adam", loss="mse")
        if arguments:
            fit(model, Y, **arguments)
        else:
            model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
        weights.append(state_of(model))
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("is_compiled", [False, True])
def test_watch(is_compiled):
    """A loop of one's own too."""
    model = model_of("adam")
    model(X[:1])

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = huge(y, model(x, training=True))
        weights = model.trainable_variables
        gradients = tape.gradient(loss, weights)
        model.optimizer.apply_gradients(zip(gradients, weights, strict=True))

    step = tf.function(step) if is_compiled else step
    with watch(model, on_nonfinite="skip", every=1):
        for n in range(0, 16, 4):
            step(X[n : n + 4], tf.constant(TARGETS[n : n + 4], tf.float32))
    weights = [*model.trainable_variables, *model.optimizer.variables]
    assert all(np.isfinite(np.array(v)).all() for v in weights)


@pytest.mark.parametrize("eager", [False, True])
def test_line_where_the_gradient_grows(eager):
    """That of the exponential, not of what is behind it."""

    def steep(y_true, y_pred):
        power = ops.exp(48.0 * ops.tanh(10.0 * y_pred))  # cut
        return ops.mean(ops.square(y_true)) + ops.mean(power)

    model = model_of("adam", "eager" if eager else "graph", steep)
    callback = fit(model, 0.0 * Y, on_nonfinite="skip")
    found = next(d for d in callback.report.diagnoses if d.code == "GG233")
    assert marked(steep) == (found.file, found.line)
    assert "Exp" == found.op


@pytest.mark.parametrize("eager", [False, True])
def test_weight_that_training_spoils(eager):
    """The line that reads it first is not shown as the cause."""
    optimizer = keras.optimizers.SGD(1e-3, momentum=0.9)
    mode = "eager" if eager else "graph"
    model = model_of(optimizer, mode, "mse", constraint=Spoiling())
    callback = fit(model, Y)
    found = next(d for d in callback.report.diagnoses if d.code == "GG222")
    assert found.line is None
    assert any("momentum" in n for n in found.evidence["optimizer_state"])
    assert "on_nonfinite" in found.help[0].text


class OwnStep(keras.Model):
    """A model with a step of its own."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = huge(y, self(x, training=True))
        weights = self.trainable_variables
        self.optimizer.apply_gradients(
            zip(tape.gradient(loss, weights), weights, strict=True)
        )
        return {"loss": loss}


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *(("Adam", mode) for mode in (*MODES, "own")),
        ("RMSprop", "graph"),
        ("Adagrad", "graph"),
    ],
)
def test_update_that_overflows_in_the_default_mode(name, mode):
    """The step that makes it is reported, once, with its variables."""
    optimizer = OPTIMIZERS[name](1e-3)
    if mode == "own":
        inner = model_of(optimizer)
        model = OwnStep(inner.inputs, inner.outputs)
        model.compile(optimizer=OPTIMIZERS[name](1e-3))
    else:
        model = model_of(optimizer, mode)
    callback = fit(model)
    found = [d for d in callback.report.diagnoses if d.kind == "nonfinite"]
    assert ["GG233"] == [d.code for d in found]
    assert ("error", 2) == (found[0].severity, found[0].step)
    sizes = largest_elements(name)
    paths = [weight.path for weight in model.trainable_variables]
    large = {p for p, n in zip(paths, sizes, strict=True) if n > 1.8446743e19}
    assert 0 < len(large) < len(paths)
    assert large == set(found[0].variables)


def largest_elements(name):
    """The largest element of each gradient of the third step, by a tape."""
    model = model_of(OPTIMIZERS[name](1e-3))
    model.fit(X[:8], TARGETS[:8], batch_size=4, shuffle=False, verbose=0)
    with tf.GradientTape() as tape:
        y = tf.constant(TARGETS[8:12], tf.float32)
        loss = huge(y, model(X[8:12], training=True))
    weights = model.trainable_variables
    gradients = tape.gradient(loss, weights)
    return [float(tf.reduce_max(tf.abs(g))) for g in gradients]


def looped(optimizer, targets, is_compiled, is_guarded=True):
    """Trains the same model in a loop; returns it and the report."""
    model = model_of(optimizer)
    model(X[:1])

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = huge(y, model(x, training=True))
        weights = model.trainable_variables
        optimizer.apply_gradients(
            zip(tape.gradient(loss, weights), weights, strict=True)
        )

    step = tf.function(step) if is_compiled else step
    health = watch(model, every=1) if is_guarded else contextlib.nullcontext()
    with health:
        for n in range(0, 16, 4):
            step(X[n : n + 4], tf.constant(targets[n : n + 4], tf.float32))
            if is_guarded:
                health.step()
    return model, health.report if is_guarded else None


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("name", ["Adam", "RMSprop"])
def test_update_that_overflows_in_a_loop(name, is_compiled):
    """The step that makes it is reported, and not the NaN behind it."""
    _, report = looped(OPTIMIZERS[name](1e-3), TARGETS, is_compiled)
    found = [d for d in report.diagnoses if d.kind == "nonfinite"]
    assert ["GG233"] == [d.code for d in found]
    assert ("error", 2) == (found[0].severity, found[0].step)
    sizes = largest_elements(name)
    large = [n for n in sizes if n > 1.8446743e19]
    assert len(large) == len(found[0].variables)


@pytest.mark.parametrize("is_compiled", [False, True])
def test_squares_that_nobody_computes_in_a_loop(is_compiled):
    """Gradients of 1e20 in every step, bit for bit as without `watch`."""
    weights = []
    for is_guarded in (False, True):
        optimizer = keras.optimizers.SGD(1e-30)
        model, report = looped(optimizer, Y + 100.0, is_compiled, is_guarded)
        weights.append([*model.trainable_variables, *optimizer.variables])
    assert not {d.code for d in report.diagnoses} & {"GG233", "GG222", "GG230"}
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("mode", MODES)
def test_squares_that_nobody_computes(mode):
    """Gradients of 1e20 in every step, of an optimizer that squares none."""
    weights = []
    for is_guarded in (False, True):
        model = model_of(keras.optimizers.SGD(1e-30), mode)
        targets = Y + 100.0
        if is_guarded:
            callback = fit(model, targets)
            codes = {d.code for d in callback.report.diagnoses}
            assert not codes & {"GG233", "GG222"}
        else:
            model.fit(X, targets, batch_size=4, shuffle=False, verbose=0)
        weights.append(state_of(model))
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


class Least(keras.optimizers.SGD):
    """An optimizer whose state begins with Inf, and stays so."""

    def build(self, variables):
        super().build(variables)
        self.least = self.add_variable((), initializer="zeros", name="least")
        self.least.assign(np.inf)


def test_infinite_state_of_a_healthy_optimizer():
    """A metric that is Inf makes the step suspected, and no more than that."""

    class WithMetric(OwnStep):
        def train_step(self, data):
            logs = super().train_step(data)
            return {**logs, "ratio": logs["loss"] / 0.0}

    inner = model_of("sgd")
    model = WithMetric(inner.inputs, inner.outputs)
    model.compile(optimizer=Least(1e-3))
    callback = fit(model, Y)
    assert callback.report.ok, callback.report
