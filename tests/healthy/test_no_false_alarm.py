"""No healthy model raises an alarm, in whatever mode it is trained."""

import warnings

import keras
import pytest
import tensorflow as tf

from keras_gradguard import (
    GradGuardLoss,
    GradHealthCallback,
    GradientBreakError,
    GradientBreakWarning,
)

from . import (
    generative,
    layers,
    loops,
    loss_code,
    losses,
    outputs,
    sequences,
    steps,
    surrogates,
    targets,
)
from .build import compile_with, compiled_loss, dense, fit, normal, recompile

MODULES = (
    losses,
    loss_code,
    loops,
    surrogates,
    layers,
    sequences,
    outputs,
    steps,
    generative,
    targets,
)
CASES = [case for module in MODULES for case in module.CASES]
SINGLE_LOSS = [
    case
    for module in MODULES
    for case in module.CASES
    if case not in module.NO_SINGLE_LOSS
]
EAGER = (
    losses.focal_with_detached_weight,
    loss_code.assert_and_print,
    loss_code.python_on_targets,
    loops.mapped,
    loops.branch_on_predictions,
    surrogates.straight_through_round,
    surrogates.hard_attention,
    layers.batch_normalisation,
    sequences.masked_lstm,
    outputs.hardest_triplets,
    steps.own_step,
    generative.codebook_autoencoder,
    generative.adversaries,
    targets.target_network,
)
COMPILED = (
    losses.hinge,
    losses.label_smoothing,
    loss_code.keras_operations,
    sequences.padded_words,
    surrogates.straight_through_sign,
    layers.frozen_layer,
    steps.own_step,
)
PATIENT = (
    losses.hinge,
    layers.adapter_that_begins_at_zero,
    layers.residual_with_zero_gamma,
    layers.mixture_of_experts,
    layers.idle_expert,
    sequences.embedding,
    sequences.padded_words,
    sequences.self_attention,
    sequences.attention_with_mask,
    outputs.hardest_triplets,
    generative.codebook_autoencoder,
)

by_name = pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)


@pytest.fixture(autouse=True)
def fresh_state():
    """Gives every test the same seeds and the same variable names."""
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)


def trained_paths(model):
    """Returns the paths of the variables that the optimizers train."""
    optimizers = [
        getattr(value, "inner_optimizer", value)
        for value in vars(model).values()
        if isinstance(value, keras.optimizers.Optimizer)
    ]
    return {
        variable.path
        for optimizer in optimizers
        if optimizer.built
        for variable in optimizer._trainable_variables
    }


def fit_strictly(model, x, y, callbacks=(), **changes):
    """Trains, and turns a warning about a break into an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=GradientBreakWarning)
        fit(model, x, y, callbacks, **changes)


def assert_silent(model, x, y, **changes):
    """Trains with the callback and reads its report."""
    callback = GradHealthCallback(every=1)
    fit_strictly(model, x, y, [callback], **changes)
    report = callback.report
    assert () == tuple(report.diagnoses)
    trained = trained_paths(model)
    rows = [row for row in report.variables if row.path in trained]
    assert sorted(trained) == sorted(row.path for row in rows)
    assert [] == [row.path for row in rows if row.status == "missing"]


@by_name
def test_callback_is_silent(case):
    """The callback finds nothing, and a row for each trained variable."""
    assert_silent(*case())


@pytest.mark.parametrize("case", SINGLE_LOSS, ids=lambda case: case.__name__)
def test_wrapped_loss_is_silent(case):
    """The wrapper lets the loss through."""
    model, x, y = case()
    recompile(model, loss=GradGuardLoss(compiled_loss(model)))
    fit_strictly(model, x, y)
    assert isinstance(model.loss, GradGuardLoss)
    assert 0 < int(model.optimizer.iterations)


@pytest.mark.parametrize("case", EAGER, ids=lambda case: case.__name__)
def test_silent_when_eager(case):
    """Nothing changes with run_eagerly=True."""
    model, x, y = case()
    recompile(model, run_eagerly=True)
    assert_silent(model, x, y)


@pytest.mark.parametrize("case", COMPILED, ids=lambda case: case.__name__)
def test_silent_under_xla(case):
    """Nothing changes with jit_compile=True."""
    model, x, y = case()
    recompile(model, jit_compile=True)
    assert_silent(model, x, y)


@pytest.mark.parametrize("case", PATIENT, ids=lambda case: case.__name__)
def test_silent_in_a_long_run(case):
    """Zeros that come and go stay below every patience."""
    assert_silent(*case(), epochs=20)


def test_cases_are_many_and_distinct():
    """The folder keeps its weight."""
    names = [case.__name__ for case in CASES]
    assert len(names) == len(set(names))
    assert len(names) >= 25
    assert all(case.__doc__ for case in CASES)


def rounded(y_true, y_pred):
    """Squared error of a rounded prediction, which has no gradient."""
    return tf.reduce_mean(tf.square(y_true - tf.round(y_pred)))


@pytest.mark.parametrize("decay", [None, "l2"])
def test_harness_hears_an_alarm(decay):
    """A broken loss fails the test, also where a regulariser hides it."""
    model = dense(1)
    model.add(keras.layers.Dense(1, kernel_regularizer=decay))
    compile_with(model, rounded)
    with pytest.raises(
        (AssertionError, GradientBreakError, GradientBreakWarning)
    ):
        assert_silent(model, normal(16, 4), normal(16, 1))


def test_harness_hears_the_wrapper():
    """A broken loss is heard through the wrapper alone."""
    model = compile_with(dense(1), GradGuardLoss(rounded))
    with pytest.raises(GradientBreakError):
        fit_strictly(model, normal(16, 4), normal(16, 1))
