"""Step 4: which questions to ask of a traced step, in which order."""

import dataclasses

import keras

from keras_gradguard.diagnosis import source
from keras_gradguard.diagnosis.edges import Context
from keras_gradguard.diagnosis.failure import failure_finding
from keras_gradguard.diagnosis.locate import Location
from keras_gradguard.diagnosis.outside import outside_findings
from keras_gradguard.diagnosis.readout import feeds_result, read_tensors
from keras_gradguard.diagnosis.trace import trace_loss, trace_step
from keras_gradguard.diagnosis.unused import ignoring_loss, unused_findings
from keras_gradguard.finding import Place

_EAGER_NOTE = (
    "run_eagerly=True hides this: compiled, TensorFlow refuses the same line"
)
_HARMLESS_NOTE = (
    "what is read here does not depend on the model, so the cut may lie "
    "further on, where the trace could not look"
)
_UNUSED_NOTE = (
    "the value seems to be used for nothing else, so the cut may lie "
    "further on, where the trace could not look"
)
_BRANCH_NOTE = "only when this branch is taken: the other one passes a gradient"


@dataclasses.dataclass(frozen=True)
class Step:
    """One training step to ask about.

    Args:
        model: The compiled model.
        data: The batch as `train_step` gets it.
        variables: The trainable variables that the step should train.
        paths: Their paths, unique, in the same order.
    """

    model: keras.Model
    data: object
    variables: tuple
    paths: tuple[str, ...]


def explain_missing(step, missing):
    """Explains why the tape returned no gradient for some variables.

    Args:
        step: The `Step`.
        missing: Indices of the variables without a gradient.

    Returns:
        A list of `Finding`s, never empty.
    """
    trace = trace_step(step.model, step.data)
    if trace.error is None:
        return _located(step, trace, missing)
    return _of_failure(step, trace, missing)


def _of_failure(step, trace, missing):
    """Explains a step that runs eagerly and fails when it is traced."""
    finding = failure_finding(trace.error, any_error=True)
    if finding.cause == "tensor_as_bool":
        converted = trace_step(step.model, step.data, trace.called)
        if converted.error is None:
            found = [
                f
                for f in _located(step, converted, missing)
                if f.cause not in ("outside_tape", "unexplained")
            ]
            if found:
                return found
    if step.model.run_eagerly:
        finding = _eager_suspect(step, trace, finding)
    return _for_all(step, finding, missing, trace)


def _eager_suspect(step, trace, finding):
    """Weighs whether the line that ended a trace is what cut the gradient."""
    tensors = read_tensors(trace.error, finding.place)
    tensors = [t for t in tensors if t.graph is trace.graph]
    location = Location(
        trace, step.model, step.variables, step.paths, losses=tensors
    )
    everything = range(len(step.variables))
    is_harmless = tensors and all(
        location.distance(n) == float("inf") for n in everything
    )
    if not is_harmless and feeds_result(finding.place):
        notes = (*finding.notes, _EAGER_NOTE)
        return dataclasses.replace(finding, notes=notes)
    note = _HARMLESS_NOTE if is_harmless else _UNUSED_NOTE
    return dataclasses.replace(
        finding, notes=(*finding.notes, note), certainty="suspected"
    )


def explain_error(step, error):
    """Explains an exception of a step, if it is about gradients.

    Args:
        step: The `Step`; its variables are all that it should train.
        error: The exception that ended it.

    Returns:
        A list of `Finding`s, empty if the exception is about other things.
    """
    finding = failure_finding(error)
    if finding is None:
        return []
    everything = range(len(step.variables))
    if finding.op is None or finding.place.line is not None:
        return _for_all(step, finding, everything)
    trace = trace_step(step.model, step.data)
    return _for_all(step, finding, everything, trace)


def _for_all(step, finding, hit, trace=None):
    """A failure stops the variables that it hits, wherever it happens."""
    if finding.op is not None and trace is not None:
        place, calls = _made_at(trace, finding.op)
        finding = dataclasses.replace(finding, place=place, calls=calls)
    paths = tuple(step.paths[number] for number in hit)
    return [dataclasses.replace(finding, variables=paths)]


def _made_at(trace, op_type):
    """The user's line of the first op of a type, and what it called."""
    for context in Context(trace.graph).everything():
        for op in context.graph.get_operations():
            if op.type == op_type:
                place = source.op_place(op)
                if place.line is not None:
                    calls = source.library_calls(source.frames_of(op))
                    return place, calls
    return Place(), ()


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
    trace = trace_step(step.model, step.data)
    if trace.error is not None:
        return []
    location = Location(trace, step.model, step.variables, step.paths)
    cut = [n for n in zero if 0 < location.distance(n) < float("inf")]
    connected = [n for n in zero if location.distance(n) == 0]
    in_branches = [
        dataclasses.replace(finding, certainty="suspected")
        for finding in _branch_findings(step, trace, connected)
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
    trace = trace_step(step.model, step.data)
    if trace.error is not None:
        return []
    location = Location(trace, step.model, step.variables, step.paths)
    asked = [
        number
        for number in range(len(step.variables))
        if location.was_asked_for(number) and location.distance(number) > 0
    ]
    return _located(step, trace, asked) if asked else []


def explain_loss_of_step(step, name):
    """Explains why one loss of a step has no gradient for its prediction.

    Args:
        step: The `Step`.
        name: Name of the loss.

    Returns:
        A list of `Finding`s.
    """
    trace = trace_step(step.model, step.data)
    if trace.error is not None:
        return _of_failure(step, trace, range(len(step.variables)))
    values = [call.value for call in trace.losses if call.name == name]
    return _located(step, trace, None, losses=values or None)


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
        return [failure_finding(trace.error, any_error=True)]
    location = Location.of_prediction(trace)
    numbers = range(len(location.tensors))
    cut = [n for n in numbers if location.distance(n) < float("inf")]
    cut = cut or [
        n for n in numbers if location.distance(n, state=True) < float("inf")
    ]
    findings = location.cuts(cut) if cut else [ignoring_loss(trace, loss.name)]
    return [dataclasses.replace(f, variables=()) for f in findings]


def _located(step, trace, missing, losses=None):
    location = Location(
        trace, step.model, step.variables, step.paths, losses=losses
    )
    far = float("inf")
    if missing is None:
        missing = _depending(location) or range(len(step.variables))
    cut, connected, unused = [], [], []
    for number in missing:
        distance = location.distance(number)
        if distance == far:
            distance = location.distance(number, state=True)
        group = connected if distance == 0 else cut
        (unused if distance == far else group).append(number)
    findings = location.cuts(cut)
    in_branches = _branch_findings(step, trace, connected)
    findings += in_branches
    explained = {path for f in in_branches for path in f.variables}
    connected = [n for n in connected if step.paths[n] not in explained]
    findings += outside_findings(location, connected)
    findings += unused_findings(location, unused)
    return findings


def _depending(location):
    """The variables that a loss depends on and gives no gradient."""
    far = float("inf")
    everything = range(len(location.variables))
    for state in (False, True):
        found = [n for n in everything if 0 < location.distance(n, state) < far]
        if found:
            return found
    return []


def _branch_findings(step, trace, numbers):
    findings = {}
    for branch in (0, 1):
        location = Location(
            trace, step.model, step.variables, step.paths, branch=branch
        )
        cut = [n for n in numbers if 0 < location.distance(n) < float("inf")]
        for finding in location.cuts(cut):
            key = (finding.op, finding.place.file, finding.place.line)
            notes = finding.notes
            if finding.op != "EagerPyFunc":
                notes = (*notes, _BRANCH_NOTE)
            findings.setdefault(key, dataclasses.replace(finding, notes=notes))
    return list(findings.values())
