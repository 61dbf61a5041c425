"""A step is traced, run and recorded once, however much is asked of it."""

import keras
import pytest
import tensorflow as tf

from keras_gradguard import diagnose
from keras_gradguard.backend import loss_evidence, step_evidence
from keras_gradguard.backend.tensorflow.tracing import evidence
from keras_gradguard.diagnosis.hidden_losses import explain_terms, reaches_of
from keras_gradguard.diagnosis.questions import (
    explain_dropped,
    explain_jumps,
    explain_loss,
    explain_loss_of_step,
    explain_missing,
    explain_zero,
    explain_zeros,
)
from keras_gradguard.graph.trace import Step
from keras_gradguard.model.losses import wrapped_loss
from tests.fitting import X, Y, classifier, fit

BATCH = (tf.constant(X), tf.constant(Y))


class Counting:
    """A loss that counts how often its Python code runs."""

    def __init__(self):
        self.symbolic, self.eager = 0, 0

    def __call__(self, y_true, y_pred):
        is_eager = hasattr(y_pred, "numpy")
        self.eager += is_eager
        self.symbolic += not is_eager
        return tf.reduce_mean(tf.square(y_true - tf.round(y_pred)), axis=-1)


def step_of(model):
    """Returns the `Step` of a model and the batch."""
    variables = tuple(model.trainable_variables)
    paths = tuple(variable.path for variable in variables)
    return Step(model, BATCH, variables, paths, step_evidence(model, BATCH))


def test_all_questions_of_one_step():
    """One trace, one run op by op."""
    counting = Counting()

    def loss(y_true, y_pred):
        return counting(y_true, y_pred)

    model = classifier(loss)
    step = step_of(model)
    everything = range(len(step.variables))
    assert ["Round"] == [f.op for f in explain_missing(step, everything)]
    explain_terms(step, is_asked=True)
    reaches_of(step, step.evidence.traced())
    explain_zero(step, everything)
    explain_dropped(step)
    explain_loss_of_step(step, "loss")
    assert (1, 0) == (counting.symbolic, counting.eager)
    explain_zeros(step, step.paths)
    explain_zeros(step, step.paths)
    explain_jumps(step)
    assert (1, 1) == (counting.symbolic, counting.eager)


def test_a_loss_alone():
    """Traced and recorded once each."""
    counting = Counting()

    def loss(y_true, y_pred):
        return counting(y_true, y_pred)

    asked = loss_evidence(wrapped_loss(loss, loss), BATCH[1], BATCH[1])
    for _ in range(2):
        assert ["Round"] == [f.op for f in explain_loss(asked)]
        asked.recorded()
    assert (1, 1) == (counting.symbolic, counting.eager)
    assert asked.loss_run() is asked.loss_run()
    assert 1 == counting.symbolic


@pytest.fixture
def traces(monkeypatch):
    """The models whose steps are traced."""
    traced = []

    def trace_step(model, *rest):
        traced.append(model)
        return kept(model, *rest)

    kept = evidence.trace_step
    monkeypatch.setattr(evidence, "trace_step", trace_step)
    return traced


def test_first_batch_of_a_training(traces):
    """Missing gradients, the terms of the loss and what reaches what."""
    rounded = keras.layers.Lambda(tf.round)
    model = classifier("mse", middle=rounded, kernel_regularizer="l2")
    callback, _ = fit(model)
    assert callback.report.diagnoses
    assert [model] == traces


def test_diagnose(traces):
    """Each optimizer, dropped variables and the losses ask the same trace."""
    model = classifier("mse", middle=keras.layers.Lambda(tf.round))
    assert diagnose(model, X, Y).diagnoses
    assert [model] == traces
