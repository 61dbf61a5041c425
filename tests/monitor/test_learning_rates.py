"""Learning rates that train nothing, or break the weights; and who set them."""

import importlib.util
import math
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback
from tests.plain import alone

MODES = [False, True]
NAMES = ["compiled", "eager"]
generator = np.random.default_rng(0)
X = generator.normal(size=(16, 4)).astype("float32")
Y = np.eye(3, dtype="float32")[generator.integers(0, 3, 16)]

# Each is a module of its own: what another one sets is no candidate there.
BY_HAND = """\
import keras


class Cycle(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 3:
            self.model.optimizer.learning_rate = RATE  # BREAK


def make():
    return keras.optimizers.SGD(0.01), [Cycle()]
"""
SCHEDULE = """\
import keras


class Inverse(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.01 / keras.ops.cast(step, "float32")  # BREAK


def make():
    return keras.optimizers.SGD(Inverse()), []
"""
SCHEDULER = """\
import keras


def falling(epoch):
    return 0.01 * 1e-9**epoch  # BREAK


def make():
    scheduler = keras.callbacks.LearningRateScheduler(falling)
    return keras.optimizers.Adam(0.01), [scheduler]
"""
PLATEAU = """\
import keras


def make():
    callbacks = [
        keras.callbacks.ReduceLROnPlateau(  # BREAK
            "loss", mode="max", factor=0.001, patience=0
        )
    ]
    return keras.optimizers.Adam(0.01), callbacks
"""
CONSTRUCTED = """\
import keras


def make():
    return keras.optimizers.Adamax(1e-19), []  # BREAK
"""
SET_FIRST = """\
import keras


def make():
    optimizer = keras.optimizers.Adamax(0.01)
    optimizer.learning_rate = 1e-19  # BREAK
    return optimizer, []
"""
TWO_SET = """\
import keras


class First(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.model.optimizer.learning_rate = self.rate(epoch)

    def rate(self, epoch):
        return 0.01 if epoch < 3 else 1e-19


class Second(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        optimizer = self.model.optimizer
        optimizer.learning_rate = optimizer.learning_rate * 1.0


def make():
    return keras.optimizers.Adam(0.01), [First(), Second()]
"""


@pytest.fixture
def loaded(tmp_path):
    """Imports a source as a module, and forgets it.

    What the code of another test may have set has no line.
    """
    name = "rates_of_a_user"

    def load(source):
        path = tmp_path / f"{name}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    with alone(sys.modules[__name__]):
        yield load
        sys.modules.pop(name, None)


def network():
    """A model whose scale of ones tells small updates from none."""
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", name="hidden"),
            keras.layers.LayerNormalization(name="scale"),
            keras.layers.Dense(3, name="head"),
        ]
    )


def fit(optimizer, callbacks=(), eager=False, epochs=16, **options):
    """Trains, one step an epoch; returns the report."""
    keras.utils.set_random_seed(1)
    model = network()
    model.compile(optimizer, "mse", run_eagerly=eager)
    guard = GradHealthCallback(every=1, **options)
    model.fit(
        *(X, Y),
        batch_size=16,
        epochs=epochs,
        verbose=0,
        callbacks=[*callbacks, guard],
    )
    assert guard.report.not_checked is None
    return guard.report


def broken_line(source):
    """The number of the line that sets the rate."""
    lines = source.splitlines()
    return next(n for n, t in enumerate(lines, 1) if t.endswith("# BREAK"))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize(
    ("source", "code"),
    [
        (BY_HAND.replace("RATE", 'float("nan")'), "GG317"),
        (BY_HAND.replace("RATE", 'float("inf")'), "GG317"),
        (BY_HAND.replace("RATE", "-0.1"), "GG317"),
        (BY_HAND.replace("RATE", "1e-19"), "GG311"),
        (SCHEDULE, "GG317"),
        (SCHEDULER, "GG311"),
        (PLATEAU, "GG311"),
        (CONSTRUCTED, "GG311"),
        (SET_FIRST, "GG311"),
    ],
    ids=[
        *("nan", "inf", "negative", "tiny", "schedule", "scheduler"),
        *("plateau", "constructed", "set-first"),
    ],
)
def test_one_card_for_all_variables(loaded, source, code, eager):
    """It has the line that sets the rate, whatever follows from it."""
    report = fit(*loaded(source).make(), eager)
    (found,) = report.diagnoses
    assert (code, "error") == (found.code, found.severity)
    assert 6 == len(found.variables)
    assert broken_line(source) == found.line, found


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_two_that_set_the_rate(loaded):
    """Where either may have done it, neither is named."""
    (found,) = fit(*loaded(TWO_SET).make()).diagnoses
    assert ("GG311", None) == (found.code, found.line)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_weights_broken_between_two_records(loaded):
    """The bad step tells of the rate, not of the weights."""
    source = BY_HAND.replace("RATE", 'float("nan")').replace("== 3", "== 5")
    optimizer, callbacks = loaded(source).make()
    keras.utils.set_random_seed(1)
    model = network()
    model.compile(optimizer, "mse")
    guard = GradHealthCallback(every=50, on_nonfinite="stop")
    history = model.fit(
        *(X, Y),
        batch_size=16,
        epochs=20,
        verbose=0,
        callbacks=[*callbacks, guard],
    )
    (found,) = guard.report.diagnoses
    assert ("GG317", broken_line(source)) == (found.code, found.line)
    assert math.isnan(found.evidence["learning_rate"])
    # The update itself is taken back.
    assert 6 == len(history.epoch)


def _cosine():
    return keras.optimizers.schedules.CosineDecay(0.01, 16)


def _warm_up():
    return keras.optimizers.schedules.CosineDecay(
        0.0, 16, warmup_target=0.01, warmup_steps=4
    )


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize(
    "schedule", [_cosine, _warm_up], ids=["cosine", "warm-up"]
)
def test_rates_that_begin_or_end_at_zero(schedule, eager):
    """A step without an update is no fault."""
    rate = schedule()
    assert 0.0 in (float(rate(0)), float(rate(16)))
    assert () == fit(keras.optimizers.Adam(rate), eager=eager).diagnoses


class Climbing(keras.Model):
    """Raises a reward."""

    def __init__(self):
        super().__init__()
        self.inner = network()

    def call(self, inputs):
        """Asks the network."""
        return self.inner(inputs)

    def train_step(self, data):
        """Follows the gradient up."""
        x, y = data
        with tf.GradientTape() as tape:
            reward = -keras.ops.mean(keras.ops.square(self(x) - y))
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(reward, weights), weights)
        return {"reward": reward}


def test_a_step_of_its_own_may_climb():
    """A negative rate is what such a step asks for."""
    model = Climbing()
    model.compile(keras.optimizers.SGD(-0.01))
    guard = GradHealthCallback(every=1)
    model.fit(*(X, Y), epochs=8, verbose=0, callbacks=[guard])
    assert () == guard.report.diagnoses
