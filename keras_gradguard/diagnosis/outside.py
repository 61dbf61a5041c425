"""Variables that the graph connects and the tape did not see."""

import dataclasses

import tensorflow as tf

from keras_gradguard.diagnosis import source
from keras_gradguard.finding import Finding, Place


def outside_findings(location, numbers):
    """Explains a missing gradient where the graph has a way for one.

    Args:
        location: A `Location`.
        numbers: Indices of variables at distance 0 without a gradient.

    Returns:
        A list of `Finding`s, one per place.
    """
    found = {}
    for number in numbers:
        finding = _finding(location, number)
        key = (finding.cause, finding.place.file, finding.place.line)
        known = found.get(key, finding)
        path = (location.paths[number],)
        found[key] = dataclasses.replace(
            known, variables=(*known.variables, *path)
        )
    return list(found.values())


def _finding(location, number):
    flow = location.flow_of(number)
    tensor = min(location.tensors[number], key=flow.distance)
    path = flow.path(tensor)
    outside = _first_unrecorded(location.trace, path)
    ops = [value.tensor.op for value in path if value.tensor.op.inputs]
    if outside is None:
        last = ops[-1] if ops else None
        return Finding(
            kind="disconnected",
            cause="unexplained",
            place=source.op_place(last) if last is not None else Place(),
            op=last.type if last is not None else None,
            path=tuple(op.type for op in ops),
            certainty="suspected",
        )
    op, call = outside
    return Finding(
        kind="disconnected",
        cause="outside_tape",
        place=_line_in(op, call.caller),
        op=op.type,
        path=tuple(op.type for op in ops[: ops.index(op) + 1]),
    )


def _first_unrecorded(trace, path):
    """The op nearest to the variable that ran while no tape recorded."""
    for call in trace.targets:
        if not call.recorded:
            continue
        for value in reversed(path):
            op = value.tensor.op
            computes = any(t.dtype != tf.resource for t in op.inputs)
            if not computes or op.graph is not trace.graph:
                continue
            number = op.graph.get_operations().index(op)
            if not any(
                graph is op.graph and first <= number < (last or first)
                for graph, first, last in call.recorded
            ):
                return op, call
    return None


def _line_in(op, caller):
    """The line of the function that asked the tape, else the op's own."""
    for file, line, function in reversed(source.frames_of(op)):
        if (file, function) == caller:
            return source.place(file, line, function)
    return source.op_place(op)
