"""Step 4: which questions to ask of a step, in which order."""

import dataclasses

from keras_gradguard.diagnosis.failed import (
    explain_failed_trace,
    hidden_by_eager,
)
from keras_gradguard.diagnosis.failure import failure_finding
from keras_gradguard.diagnosis.locate import Location
from keras_gradguard.diagnosis.ran import ran_loss, ran_step
from keras_gradguard.diagnosis.readout import read_findings
from keras_gradguard.diagnosis.trace import trace_loss, trace_step
from keras_gradguard.diagnosis.unused import ignoring_loss
from keras_gradguard.diagnosis.ways import (
    branch_cuts,
    branch_findings,
    located_findings,
)


def explain_missing(step, missing):
    """Explains why the tape returned no gradient for some variables.

    Args:
        step: The `Step`.
        missing: Indices of the variables without a gradient.

    Returns:
        A list of `Finding`s, never empty.
    """
    trace = step.trace or trace_step(step.model, step.data)
    if trace.error is None:
        return located_findings(step, trace, missing)
    ran = ran_step(step)
    if ran is None:
        return explain_failed_trace(step, trace, missing)
    found = located_findings(step, ran, missing)
    return [hidden_by_eager(finding, trace.error) for finding in found]


def explain_zero(step, zero):
    """Looks for cuts that TensorFlow turned into zeros.

    Loops, conditionals and Python functions hand back zeros where the way
    inside them is cut.

    Args:
        step: The `Step`.
        zero: Indices of the variables whose gradient is exactly zero.

    Returns:
        A list of `Finding`s, empty if the gradients are connected.
    """
    trace = step.trace or trace_step(step.model, step.data)
    if trace.error is not None:
        return []
    location = Location(trace, step.model, step.variables, step.paths)
    cut = [n for n in zero if 0 < location.distance(n) < float("inf")]
    connected = [n for n in zero if location.distance(n) == 0]
    in_branches = [
        dataclasses.replace(finding, certainty="suspected")
        for finding in branch_findings(step, trace, connected)
    ]
    return location.cuts(cut) + in_branches


def explain_dropped(step):
    """Looks for cuts of variables that the step does not even update.

    A custom step may drop the variables without a gradient by itself.

    Args:
        step: The `Step`, with variables that no optimizer got.

    Returns:
        A list of `Finding`s for those that the tape was asked for.
    """
    trace = step.trace or trace_step(step.model, step.data)
    if trace.error is not None:
        return []
    location = Location(trace, step.model, step.variables, step.paths)
    asked = [
        number
        for number in range(len(step.variables))
        if location.was_asked_for(number) and location.distance(number) > 0
    ]
    return located_findings(step, trace, asked) if asked else []


def explain_loss_of_step(step, name):
    """Explains why one loss of a step has no gradient for its prediction.

    Args:
        step: The `Step`.
        name: Name of the loss.

    Returns:
        A list of `Finding`s.
    """
    trace = _shown(step)
    if trace.error is not None:
        return explain_failed_trace(step, trace, range(len(step.variables)))
    calls = [call for call in trace.losses if call.loss.name == name]
    values = [call.value for call in calls]
    return located_findings(step, trace, None, losses=values or None)


def _shown(step):
    """What a step shows: a trace, or where that fails the eager step."""
    trace = step.trace or trace_step(step.model, step.data)
    return trace if trace.error is None else ran_step(step) or trace


def explain_loss(loss, y_true, y_pred):
    """Explains why a loss has no gradient for its prediction, without model.

    Args:
        loss: A `keras.losses.Loss`.
        y_true: Its targets.
        y_pred: Its predictions.

    Returns:
        A list of `Finding`s without variables.
    """
    trace = trace_loss(loss, y_true, y_pred)
    if trace.error is not None:
        trace = ran_loss(loss, y_true, y_pred) or trace
    if trace.error is not None:
        return [failure_finding(trace.error, any_error=True)]
    location = Location.of_prediction(trace)
    numbers = range(len(location.tensors))
    cut = [n for n in numbers if location.distance(n) < float("inf")]
    cut = cut or [
        n for n in numbers if location.distance(n, state=True) < float("inf")
    ]
    if cut:
        findings = location.cuts(cut)
    else:
        findings, _ = read_findings(location, list(numbers))
        findings = findings or [ignoring_loss(trace, loss.name)]
    if cut and not findings:
        findings = branch_cuts(
            lambda branch: Location.of_prediction(trace, branch), cut
        )
    return [dataclasses.replace(f, variables=()) for f in findings]
