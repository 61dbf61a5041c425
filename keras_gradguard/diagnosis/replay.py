"""Step 4: run a step once more, outside the training, and ask why.

The replay is eager, so that every op has its values and its line. Where XLA
or another order of computing made the difference, the ops are asked one by
one, compiled as the step was.
"""

import dataclasses
import weakref

import tensorflow as tf

from keras_gradguard.diagnosis import source
from keras_gradguard.diagnosis.backward import pulled
from keras_gradguard.diagnosis.eagerness import runs_eagerly
from keras_gradguard.diagnosis.jumps import jump_findings, may_jump
from keras_gradguard.diagnosis.nonfinite import nonfinite_findings
from keras_gradguard.diagnosis.recording import record_step
from keras_gradguard.diagnosis.zeros import zero_findings
from keras_gradguard.finding import Finding

_NOT_AGAIN = (
    "run once more, op by op, on the same batch and weights, the step gives "
    "finite numbers"
)
_FAILED = "the step could not be run once more, op by op: {}"
_XLA = "only as XLA compiles it: op by op the gradient is finite"


def explain_nonfinite(step, hit, weights=(), is_xla=False):
    """Says where a NaN or an Inf of a step begins.

    Args:
        step: The `Step`, its `data` the very batch.
        hit: Paths of the variables whose gradient was not finite.
        weights: `(variable, value)` pairs of the weights before the step;
            by default those of now.
        is_xla: Whether XLA had compiled the step.

    Returns:
        A list of `Finding`s, never empty.
    """
    recording = record_step(step.model, step.data, weights)
    if recording.trace.error is not None:
        error = type(recording.trace.error).__name__
        return [unexplained(hit, _FAILED.format(error))]
    asked = (recording, step.variables, step.paths, step.model)
    found = nonfinite_findings(*asked)
    if not found and is_xla:
        found = [
            dataclasses.replace(finding, notes=(*finding.notes, _XLA))
            for finding in nonfinite_findings(*asked, pull=_pulled_by_xla)
        ]
    if not found:
        return [unexplained(hit, _NOT_AGAIN)]
    measured = tuple(path for path in step.paths if path in hit)
    return [dataclasses.replace(f, variables=measured) for f in found]


def unexplained(hit, note):
    """Returns the `Finding` of a bad step that could not be looked into.

    Args:
        hit: Paths of the variables whose gradient was not finite.
        note: Why not.
    """
    return Finding(
        kind="nonfinite",
        cause="unexplained",
        variables=tuple(hit),
        notes=(note,),
        certainty="suspected",
    )


def explain_zeros(step, zero, noise=0.0):
    """Says which op stops the gradient of some variables of a step.

    Args:
        step: The `Step`, its `data` a batch.
        zero: Paths of the variables whose gradient is zero throughout.
        noise: See `zeros.zero_findings`.

    Returns:
        A list of `Finding`s, empty where nothing is wrong.
    """
    recording = record_step(step.model, step.data)
    if recording.trace.error is not None:
        return []
    named = dict(zip(step.paths, step.variables, strict=True))
    variables = [named[path] for path in zero]
    return zero_findings(recording, variables, zero, step.model, noise)


def explain_jumps(step, graph=None):
    """Says where a loss of a step jumps as a condition flips.

    A loss jumps by its formula: it is asked once for each graph.

    Args:
        step: The `Step`, its `data` a batch.
        graph: The graph of the step, `None` if it runs eagerly. Without a
            condition on a line of the user's nothing is run.

    Returns:
        A list of `Finding`s.
    """
    if runs_eagerly(step.model):
        return _jumps_of(step)
    if graph is None:
        return []
    return list(step.answer(_jumps_in, weakref.ref(graph)))


def _jumps_in(step, graph):
    return _jumps_of(step, False) if may_jump(graph()) else []


def _jumps_of(step, is_eager=True):
    recording = record_step(step.model, step.data)
    findings = []
    for call in recording.trace.losses:
        code = getattr(call.function, "__code__", None)
        if code is None or not source.is_users(code.co_filename):
            continue
        findings += jump_findings(
            call.loss, call.y_true, call.y_pred, call.name, is_eager
        )
    return findings


def _pulled_by_xla(op, incoming):
    """The gradient of an op, as XLA compiles it."""
    if op.backward is not None or not any(
        isinstance(t, tf.Tensor) and t.dtype.is_floating for t in op.inputs
    ):
        return pulled(op, incoming)
    known = dataclasses.replace

    @tf.function(jit_compile=True, autograph=False)
    def compiled(inputs, outputs, gradients):
        return pulled(known(op, inputs=inputs, outputs=outputs), gradients)

    return compiled(op.inputs, op.outputs, tuple(incoming))
