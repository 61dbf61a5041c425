"""Variables that the graph connects and the tape did not see."""

import collections
import dataclasses

from keras_gradguard.graph.ops import RESOURCE
from keras_gradguard.records.finding import Finding, Place
from keras_gradguard.source.frames import op_place, place_at
from keras_gradguard.source.syntax import feeds_result, rebuilds


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
    outside = first_unrecorded(location.trace, path)
    ops = [value.tensor.op for value in path if value.tensor.op.inputs]
    if outside is None:
        last = ops[-1] if ops else None
        return Finding(
            kind="disconnected",
            cause="unexplained",
            place=op_place(last) if last is not None else Place(),
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


def first_unrecorded(trace, path):
    """Returns the op nearest to a variable that ran while no tape recorded.

    Args:
        trace: A `Trace`.
        path: `Value`s from the loss to the variable.

    Returns:
        `(op, call)`, the `TapeCall` being that whose tape it was; `None` if
        all were recorded.
    """
    for call in trace.targets:
        if call.taped is None:
            continue
        for value in reversed(path):
            op = value.tensor.op
            computes = any(t.kind != RESOURCE for t in op.inputs)
            if not computes or op.graph is not trace.graph:
                continue
            if op.number not in call.taped:
                return op, call
    return None


def _line_in(op, caller):
    """The line of the function that asked the tape, else the op's own."""
    for file, line, function in reversed(op.frames):
        if (file, function) == (caller.file, caller.function):
            return place_at(file, line, function)
    return op_place(op)


_SUSPECT_NOTE = (
    "other values also left TensorFlow, or some variables are connected; this "
    "is the first line whose value is used"
)
# What a Python `if` asks is most often not the loss.
_RANKS = {"tensor_as_bool": 1}


def read_findings(location, numbers):
    """Explains variables whose way to the loss led out of TensorFlow.

    Args:
        location: The `Location`; its trace is of an eager step, with what
            it read out.
        numbers: Indices of variables that no loss depends on.

    Returns:
        `(findings, rest)`: the `Finding`s, one for each line, and the
        indices that none of them explains.
    """
    reads = collections.defaultdict(list)
    for read in location.trace.read if numbers else ():
        if feeds_result(read.place):
            # A line may read the batch at first, and then a prediction.
            reads[read.place.file, read.place.line].append(read)
    ordered = sorted(reads.values(), key=lambda r: _RANKS.get(r[0].cause, 0))
    hit, rest = {}, list(numbers)
    for position, at_line in enumerate(ordered):
        before = location.of_losses([read.tensor for read in at_line])
        found = [n for n in rest if before.distance(n) < float("inf")]
        rest = [n for n in rest if n not in found]
        if found:
            hit[position] = found
    is_proved = len(reads) == 1 and not rest
    is_proved &= len(numbers) == len(location.paths)
    findings = [
        Finding(
            kind="untraceable",
            cause=cause_of(ordered[position][0]),
            place=ordered[position][0].place,
            variables=tuple(location.paths[n] for n in found),
            notes=() if is_proved else (_SUSPECT_NOTE,),
            certainty="proved" if is_proved else "suspected",
        )
        for position, found in hit.items()
    ]
    return findings, rest


def cause_of(read):
    """Returns the cause of a finding about a `ReadOut`."""
    is_number = read.cause in ("numpy", "python_value")
    if is_number and rebuilds(read.place):
        return "rebuilt_constant"
    return read.cause
