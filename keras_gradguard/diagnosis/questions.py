"""Which questions to ask of a step, in which order."""

import dataclasses
import weakref

from keras_gradguard.diagnosis.cuts import (
    Location,
    branch_cuts,
    branch_findings,
    located_findings,
)
from keras_gradguard.diagnosis.derivatives import by_derivative
from keras_gradguard.diagnosis.failures import (
    explain_failed_trace,
    hidden_by_eager,
)
from keras_gradguard.diagnosis.heads import ONE_CLASS, SCORES, explain_heads
from keras_gradguard.diagnosis.jumps import holds_condition, jump_findings
from keras_gradguard.diagnosis.nonfinite import nonfinite_findings
from keras_gradguard.diagnosis.outside_tape import read_findings
from keras_gradguard.diagnosis.unused import ignoring_loss
from keras_gradguard.diagnosis.zeros import zero_findings
from keras_gradguard.graph.edges import FORWARD
from keras_gradguard.model.layers import runs_eagerly
from keras_gradguard.records.finding import Finding
from keras_gradguard.source.frames import is_users


def explain_missing(step, missing):
    """Explains why the tape returned no gradient for some variables.

    Args:
        step: The `Step`.
        missing: Indices of the variables without a gradient.

    Returns:
        A list of `Finding`s, never empty.
    """
    trace = step.evidence.traced()
    if trace.error is None:
        return located_findings(step, trace, missing)
    ran = step.evidence.rerun(step.variables)
    if ran is None:
        return explain_failed_trace(step, missing)
    found = located_findings(step, ran, missing)
    return [hidden_by_eager(step, finding) for finding in found]


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
    trace = step.evidence.traced()
    if trace.error is not None:
        return []
    location = Location(trace, step.model, step.variables, step.paths)
    cut = [n for n in zero if 0 < location.distance(n) < float("inf")]
    connected = [n for n in zero if location.distance(n) == 0]
    in_branches = [
        dataclasses.replace(finding, certainty="suspected")
        for finding in branch_findings(step, trace, connected)
    ]
    explained = {path for f in in_branches for path in f.variables}
    rest = [n for n in connected if step.paths[n] not in explained]
    return location.cuts(cut) + in_branches + _recomputed(step, trace, rest)


_RECOMPUTED = (
    "inside a function with a custom gradient, such as `keras.remat`, which "
    "returns zeros where no gradient exists"
)


def _recomputed(step, trace, numbers):
    """Finds cuts in the forward pass behind a custom gradient."""
    location = Location(
        trace, step.model, step.variables, step.paths, branch=FORWARD
    )
    cut = [n for n in numbers if 0 < location.distance(n) < float("inf")]
    return [
        dataclasses.replace(
            finding,
            certainty="suspected",
            notes=(*finding.notes, _RECOMPUTED),
        )
        for finding in location.cuts(cut)
    ]


def explain_dropped(step):
    """Looks for cuts of variables that the step does not even update.

    A custom step may drop the variables without a gradient by itself.

    Args:
        step: The `Step`, with variables that no optimizer got.

    Returns:
        A list of `Finding`s for those that the tape was asked for.
    """
    trace = step.evidence.traced()
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
        return explain_failed_trace(step, range(len(step.variables)))
    calls = [call for call in trace.losses if call.loss_name == name]
    values = [call.value for call in calls if call.value is not None]
    return located_findings(step, trace, None, losses=values or None)


def _shown(step):
    """What a step shows: a trace, or where that fails the eager step."""
    trace = step.evidence.traced()
    if trace.error is None:
        return trace
    return step.evidence.rerun(step.variables) or trace


def explain_loss(evidence):
    """Explains why a loss has no gradient for its prediction, without model.

    Args:
        evidence: What looks at the loss; has `loss` itself, `traced()` and
            `failure(...)` as for a `Step`, and `rerun()`, the `Trace` of the
            loss run eagerly, or `None`.

    Returns:
        A list of `Finding`s without variables.
    """
    trace = evidence.traced()
    if trace.error is not None:
        trace = evidence.rerun() or trace
    if trace.error is not None:
        return [evidence.failure(trace.error, any_error=True)]
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
        findings = findings or [ignoring_loss(trace, evidence.loss.name)]
    if cut and not findings:
        findings = branch_cuts(
            lambda branch: Location.of_prediction(trace, branch), cut
        )
    return [dataclasses.replace(f, variables=()) for f in findings]


_NOT_AGAIN = (
    "replayed op by op on the same batch and weights, the step returns finite "
    "values"
)
_FAILED = "the step could not be replayed op by op: {}"
_XLA = "only when compiled by XLA: op by op, the gradient is finite"


def explain_nonfinite(step, hit, weights=(), is_xla=False, recorded=None):
    """Says where a NaN or an Inf of a step begins.

    Args:
        step: The `Step`, its `data` the very batch.
        hit: Paths of the variables whose gradient was not finite.
        weights: `(variable, value)` pairs of the weights before the step;
            by default those of now.
        is_xla: Whether XLA had compiled the step.
        recorded: The `Trace` of the step with them, if it is there already.

    Returns:
        A list of `Finding`s, never empty.
    """
    if recorded is None:
        recorded = step.evidence.recorded(weights)
    if recorded.error is not None:
        error = type(recorded.error).__name__
        return [unexplained(hit, _FAILED.format(error))]
    asked = (recorded, step.variables, step.paths, step.model)

    def replay(types, value):
        return step.evidence.recorded(weights, (types, value))

    found = nonfinite_findings(*asked, replay=replay)
    if not found and is_xla:
        found = [
            dataclasses.replace(finding, notes=(*finding.notes, _XLA))
            for finding in nonfinite_findings(*asked, compiled=True)
        ]
    if not found:
        return [unexplained(hit, _NOT_AGAIN)]
    if not hit:
        # The loss alone is not finite.
        return found
    measured = tuple(path for path in step.paths if path in hit)
    return [dataclasses.replace(f, variables=measured) for f in found]


def unexplained(hit, *notes):
    """Returns the `Finding` of a bad step that could not be looked into.

    Args:
        hit: Paths of the variables whose gradient, or loss, was not finite.
        *notes: Why not, and what else is known.
    """
    return Finding(
        kind="nonfinite",
        cause="unexplained",
        variables=tuple(hit),
        notes=notes,
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
    recorded = step.evidence.recorded()
    if recorded.error is not None:
        return []
    named = dict(zip(step.paths, step.variables, strict=True))
    # An optimizer may train what the model does not hold.
    zero = [path for path in zero if path in named]
    if not zero:
        return []
    variables = [named[path] for path in zero]
    return zero_findings(recorded, variables, zero, step.model, noise)


def misfit_findings(step, zero, known=()):
    """Says which losses got what does not fit them, and what that stops.

    Args:
        step: The `Step`, its `data` a batch.
        zero: Paths of the variables whose gradient is zero throughout.
        known: Causes of what has been found already.

    Returns:
        A list of `Finding`s. Scores that are all outside of what a loss
        takes leave no gradient: that is said of them then.
    """
    found = explain_heads(step)
    if "one_unit_softmax" in known:
        found = [finding for finding in found if finding.cause != ONE_CLASS]
    if not zero or all(finding.cause != SCORES for finding in found):
        return found
    stopped = [
        finding
        for finding in explain_zeros(step, zero)
        if finding.cause == "saturated_clip"
    ]
    lines = {(f.place.file, f.place.line) for f in stopped}
    return stopped + [
        f
        for f in found
        if f.cause != SCORES or (f.place.file, f.place.line) not in lines
    ]


def explain_derivatives(step, zero):
    """Says which derivative in the loss of a step is zero everywhere.

    Args:
        step: The `Step`.
        zero: Paths of the variables whose gradient is zero throughout.

    Returns:
        A list of `Finding`s, at most one.
    """
    trace = step.evidence.traced()
    if trace.error is not None:
        return []
    location = Location(trace, step.model, step.variables, step.paths)
    numbers = [n for n, path in enumerate(step.paths) if path in zero]
    return by_derivative(location, numbers)[0]


def explain_jumps(step, graph=None):
    """Says where a loss of a step jumps as a condition flips.

    A loss jumps by its formula: it is asked once for each graph.

    Args:
        step: The `Step`, its `data` a batch.
        graph: The graph of the step as the backend has it, `None` if it
            runs eagerly. Without a condition on a line of the user's
            nothing is run.

    Returns:
        A list of `Finding`s.
    """
    if runs_eagerly(step.model):
        return jumps_of_losses(step)
    if graph is None:
        return []
    return list(step.answer(_jumps_in, weakref.ref(graph)))


def _jumps_in(step, graph):
    own = step.evidence.adapted(graph())
    return jumps_of_losses(step, False) if holds_condition(own) else []


def jumps_of_losses(step, is_eager=True):
    """Says where the losses of a step jump, whatever its graph shows.

    Args:
        step: The `Step`, its `data` a batch.
        is_eager: Whether a Python `if` on numbers may choose as well.
    """
    findings = []
    for call in step.evidence.loss_calls():
        code = getattr(call.function, "__code__", None)
        if code is None or not is_users(code.co_filename):
            continue
        subject = step.evidence.loss_run(call)
        findings += jump_findings(subject, call.name, is_eager)
    return findings


def with_trained(step, jumps):
    """Names the variables that each loss trains which jumps.

    Args:
        step: The `Step`.
        jumps: What `explain_jumps` returned, or some of it.

    Returns:
        A list of `Finding`s.
    """
    return [
        dataclasses.replace(jump, variables=step.answer(_trained_by, jump.loss))
        for jump in jumps
    ]


def _trained_by(step, name):
    """The paths of the variables that one loss leads a gradient to."""
    trace = _shown(step)
    if trace.error is not None:
        return ()
    values = [call.value for call in trace.losses if call.name == name]
    values = [value for value in values if value is not None]
    known = (trace, step.model, step.variables, step.paths)
    location = Location(*known, losses=values)
    return tuple(
        path
        for number, path in enumerate(step.paths if values else ())
        if location.was_asked_for(number) and location.distance(number) == 0
    )
