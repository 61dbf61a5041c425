"""Steps that fail, in training or only when they are traced."""

import dataclasses

from keras_gradguard.diagnosis.cuts import Location, located_findings
from keras_gradguard.graph.ops import Context
from keras_gradguard.model.layers import runs_eagerly
from keras_gradguard.records.finding import Place
from keras_gradguard.source.frames import library_calls, op_place
from keras_gradguard.source.syntax import feeds_result

_EAGER_NOTE = (
    "run_eagerly=True hides this error: in a compiled step, TensorFlow rejects "
    "the same line"
)
_HARMLESS_NOTE = (
    "the value read here does not depend on the model, so the cut may be in "
    "later code, which could not be traced"
)
_UNUSED_NOTE = (
    "the value does not seem to affect the result, so the cut may be in later "
    "code, which could not be traced"
)


def explain_failed_trace(step, missing):
    """Explains a step that runs eagerly and fails when it is traced.

    Args:
        step: The `Step`, its trace ended by an exception.
        missing: Indices of the variables without a gradient.

    Returns:
        A list of `Finding`s, never empty.
    """
    trace = step.evidence.traced()
    finding = step.evidence.failure(trace.error, any_error=True)
    if finding.cause == "tensor_as_bool":
        converted = step.evidence.traced_with_python_control_flow()
        if converted.error is None:
            found = [
                f
                for f in located_findings(step, converted, missing)
                if f.cause not in ("outside_tape", "unexplained")
            ]
            if found:
                return found
    if runs_eagerly(step.model):
        finding = _eager_suspect(step, trace, finding)
    return _for_all(step, finding, missing, trace)


def hidden_by_eager(step, finding):
    """Returns a finding of an eager step that says what a trace makes of it.

    Args:
        step: The `Step`, its trace ended by an exception.
        finding: The `Finding`.
    """
    error = step.evidence.traced().error
    failed = step.evidence.failure(error, any_error=True)
    here, there = finding.place, failed.place
    if here.line is None or (here.file, here.line) != (there.file, there.line):
        return finding
    return dataclasses.replace(
        finding,
        exception=failed.exception,
        error=failed.error,
        notes=(*finding.notes, _EAGER_NOTE),
    )


def _eager_suspect(step, trace, finding):
    """Weighs whether the line that ended a trace is what cut the gradient."""
    tensors = step.evidence.read_tensors(trace.error, finding.place)
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
        step: The `Step`; its variables are all that it should train, none
            where its model is not known.
        error: The exception that ended it.

    Returns:
        A list of `Finding`s, empty if the exception is about other things.
    """
    finding = step.evidence.failure(error)
    if finding is None:
        return []
    everything = range(len(step.variables))
    is_found = finding.place.line is not None and step.evidence.seen is None
    if finding.op is None or is_found or step.model is None:
        return _for_all(step, finding, everything)
    trace = step.evidence.traced()
    if trace.error is not None:
        trace = step.evidence.rerun(step.variables, may_fail=True) or trace
    return _for_all(step, finding, everything, trace)


def _for_all(step, finding, hit, trace=None):
    """A failure stops the variables that it hits, wherever it happens."""
    if finding.op is not None and trace is not None:
        place, calls = _made_at(trace, finding.op)
        if place.line is not None or finding.place.line is None:
            finding = dataclasses.replace(finding, place=place, calls=calls)
    paths = tuple(step.paths[number] for number in hit)
    return [dataclasses.replace(finding, variables=paths)]


def _made_at(trace, op_type):
    """The user's line of the first op of a type, and what it called."""
    for context in Context(trace.graph).everything():
        for op in context.graph.ops:
            if op.type == op_type:
                place = op_place(op)
                if place.line is not None:
                    calls = library_calls(op.frames)
                    return place, calls
    return Place(), ()
