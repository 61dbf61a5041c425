"""A fault planted at a random line of a random program is found there."""

import importlib.util
import itertools
import re
import warnings

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback, check_loss, diagnose
from keras_gradguard.errors import GradientBreakError
from tests.planted import programs

_numbers = itertools.count()
_generator = np.random.default_rng(3)
Y = _generator.normal(size=(8, 4)).astype("float32")
PREDICTED = _generator.normal(size=(8, 4)).astype("float32")
KINDS = ("disconnected", "zero", "nonfinite")
EPOCHS = {"disconnected": 1, "zero": 3, "nonfinite": 1, None: 3}
# A gradient below this has faded, and no fault can be said to hit it.
_SEEN = 1e-3
drawn, taken = [0], [0]


def examples(number):
    """Hypothesis' settings for so many examples, the same in every run."""
    return hypothesis.settings(
        max_examples=number,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the modules are written."""
    return tmp_path_factory.mktemp("planted")


def load(source, folder):
    """Imports a module from a new file of its own.

    AutoGraph takes equal functions of two files for one and names the first
    file, so each file calls its values by a name of its own.
    """
    name = f"planted_{next(_numbers)}"
    path = folder / f"{name}.py"
    path.write_text(re.sub(r"\bx\b", f"x_of_{name}", source))
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def built(module, mode):
    """Returns a compiled model of a module, and inputs for it."""
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(1)
    model = module.model()
    model.compile(
        "sgd",
        loss=module.loss,
        run_eagerly=mode == "eager",
        jit_compile=mode == "xla",
    )
    shape = (8, *model.input_shape[1:])
    generator = np.random.default_rng(5)
    return model, generator.normal(size=shape).astype("float32")


def slopes(module, mode, only_loss):
    """Returns loss, gradients of the model, of `BEFORE` and of `AFTER`."""
    model, x = (None, None) if only_loss else built(module, mode)
    predicted = tf.constant(PREDICTED)
    variables = () if only_loss else model.trainable_variables
    asked = [predicted] if only_loss else [v.value for v in variables]
    asked += [module.BEFORE, module.AFTER]

    def step():
        with tf.GradientTape() as tape:
            tape.watch(predicted)
            y_pred = predicted if only_loss else model(x, training=True)
            value = tf.reduce_mean(module.loss(tf.constant(Y), y_pred))
        return value, tape.gradient(value, asked)

    if mode == "xla":
        step = tf.function(step, jit_compile=True, autograph=False)
    value, found = step()
    return value, found[:-2], found[-2], found[-1]


def num_before(module):
    """The number of a model's variables that come before the fault."""
    layers = itertools.takewhile(
        lambda layer: layer.name != "planted", module.model().layers
    )
    return sum(len(layer.trainable_variables) for layer in layers)


def largest(gradient):
    """The largest element of a gradient, 0 for none."""
    return 0.0 if gradient is None else float(tf.reduce_max(abs(gradient)))


def is_fit(program, folder, only_loss=False):
    """Whether the fault hits and nothing else does: an oracle on its own."""
    module = load(program.probed, folder)
    value, gradients, before, after = slopes(module, program.mode, only_loss)
    before, after = largest(before), largest(after)
    if program.kind is None:
        sizes = [largest(g) for g in gradients if g is None or g.shape.rank > 1]
        return np.isfinite([value, *sizes]).all() and min(sizes) > _SEEN
    if program.kind == "nonfinite":
        return not np.isfinite(before)
    start = 1 if only_loss else num_before(module)
    later = [largest(g) for g in gradients[start:]]
    is_alive = np.isfinite(after) and min([after, *later]) > _SEEN
    return is_alive and before == 0.0


def assume(program, folder, only_loss=False):
    """Drops a program whose fault does not hit, and counts."""
    drawn[0] += 1
    hypothesis.assume(is_fit(program, folder, only_loss))
    taken[0] += 1


def told(report):
    """The kinds and lines of a report."""
    return [(d.kind, d.line) for d in report.diagnoses]


def fitted(program, folder):
    """Trains a program; returns the file and the report."""
    module = load(program.source, folder)
    model, x = built(module, program.mode)
    callback = GradHealthCallback(every=1, thresholds={"patience": 2})
    options = {"epochs": EPOCHS[program.kind], "batch_size": 8, "verbose": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            model.fit(x, Y, callbacks=[callback], **options)
        except GradientBreakError:
            assert program.kind == "disconnected"
    return module.__file__, callback.report


def assert_found(program, file, report):
    """The report names the planted fault and no other."""
    assert [(program.kind, program.line)] == told(report), program.source
    assert file == report.diagnoses[0].file


@examples(40)
@hypothesis.given(program=programs(KINDS))
def test_fit_finds_the_fault(folder, program):
    """Training under the callback names the planted line and no other."""
    assume(program, folder)
    assert_found(program, *fitted(program, folder))


@examples(50)
@hypothesis.given(program=programs(KINDS))
def test_diagnose_finds_the_fault(folder, program):
    """One look at the model names the planted line and no other."""
    assume(program, folder)
    module = load(program.source, folder)
    model, x = built(module, program.mode)
    assert_found(program, module.__file__, diagnose(model, x, Y))


@examples(140)
@hypothesis.given(program=programs(("disconnected", "nonfinite"), True))
def test_check_loss_finds_the_fault(folder, program):
    """One look at the loss alone names the planted line and no other."""
    assume(program, folder, only_loss=True)
    module = load(program.source, folder)
    report = check_loss(module.loss, Y, PREDICTED)
    assert_found(program, module.__file__, report)


@pytest.mark.slow
@examples(30)
@hypothesis.given(program=programs())
def test_silent_without_a_fault(folder, program):
    """Nothing is said of the programs no fault was planted in."""
    assume(program, folder)
    assert [] == told(fitted(program, folder)[1]), program.source


@examples(40)
@hypothesis.given(program=programs(only_loss=True))
def test_check_loss_is_silent_without_a_fault(folder, program):
    """Nothing is said of a loss alone that no fault was planted in."""
    assume(program, folder, only_loss=True)
    loss = load(program.source, folder).loss
    assert [] == told(check_loss(loss, Y, PREDICTED)), program.source


def test_most_programs_are_fit():
    """The oracle drops few programs, so the tests above say something."""
    assert taken[0] >= 0.7 * drawn[0]
