"""Whether a value that left TensorFlow can be what cut the gradient.

An eager step may read out a tensor and go on: a label, a value to print. The
trace stops there all the same, so the line is only a suspect.
"""

import ast
import linecache
import traceback

import tensorflow as tf

from keras_gradguard.diagnosis.locate import Location
from keras_gradguard.finding import Finding

_SUSPECT_NOTE = (
    "more was read out, or some variables are connected; this is the first "
    "line whose value is used"
)
# What a Python `if` asks is most often not the loss.
_RANKS = {"tensor_as_bool": 1}


def read_findings(step, trace, numbers):
    """Explains variables whose way to the loss led out of TensorFlow.

    Args:
        step: The `Step`.
        trace: The `Trace` of an eager step, with what it read out.
        numbers: Indices of variables that no loss depends on.

    Returns:
        `(findings, rest)`: the `Finding`s, one for each line, and the
        indices that none of them explains.
    """
    reads = {}
    for read in trace.read if numbers else ():
        if feeds_result(read.place):
            reads.setdefault((read.place.file, read.place.line), read)
    ordered = sorted(reads.values(), key=lambda r: _RANKS.get(r.cause, 0))
    hit, rest = {}, list(numbers)
    for position, read in enumerate(ordered):
        location = Location(
            trace, step.model, step.variables, step.paths, [read.tensor]
        )
        found = [n for n in rest if location.distance(n) < float("inf")]
        rest = [n for n in rest if n not in found]
        if found:
            hit[position] = found
    is_proved = len(reads) == 1 and not rest
    is_proved &= len(numbers) == len(step.variables)
    findings = [
        Finding(
            kind="untraceable",
            cause=ordered[position].cause,
            place=ordered[position].place,
            variables=tuple(step.paths[n] for n in found),
            notes=() if is_proved else (_SUSPECT_NOTE,),
            certainty="proved" if is_proved else "suspected",
        )
        for position, found in hit.items()
    ]
    return findings, rest


def read_tensors(error, place):
    """Returns the tensors that the failing line names.

    Args:
        error: The exception that ended a trace.
        place: The user's line that it came from.
    """
    names = names_on(place)
    found = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        if (frame.f_code.co_filename, line) == (place.file, place.line):
            values = [frame.f_locals.get(name) for name in names]
            found = [v for v in values if isinstance(v, tf.Tensor)]
    return found


def names_on(place):
    """Returns the names that the statement on a line uses, a set.

    Args:
        place: The user's line.
    """
    return {
        node.id
        for statement in _statements(place)
        for node in ast.walk(statement)
        if isinstance(node, ast.Name)
    }


def feeds_result(place):
    """Returns whether the value of a line is used for more than a call.

    `print(float(x))` and `history.append(v)` throw their value away; what is
    returned, tested or computed with is used. Without source it is.

    Args:
        place: The user's line.
    """
    statements = _statements(place)
    if not statements:
        return True
    statement = statements[-1]
    if isinstance(statement, ast.Expr):
        return False
    if not isinstance(statement, (ast.Assign, ast.AnnAssign)):
        return True
    names = {
        node.id
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    if not names:
        return True
    return any(
        isinstance(node, ast.Name) and node.id in names
        for later in _later_statements(place)
        if not isinstance(later, ast.Expr)
        for node in ast.walk(later)
        if isinstance(getattr(node, "ctx", None), ast.Load)
    )


def _tree(place):
    try:
        return ast.parse("".join(linecache.getlines(place.file or "")))
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def _simple(place):
    """The statements that hold no other statement, and headers of others."""
    for node in ast.walk(_tree(place)):
        if isinstance(node, ast.stmt) and not hasattr(node, "body"):
            yield node


def _statements(place):
    return [
        node
        for node in _simple(place)
        if node.lineno <= (place.line or 0) <= node.end_lineno
    ]


def _later_statements(place):
    """The simple statements and tests after the line, in its function."""
    around = [
        node
        for node in ast.walk(_tree(place))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.lineno <= place.line <= node.end_lineno
    ]
    body = around[-1] if around else _tree(place)
    for node in ast.walk(body):
        if getattr(node, "lineno", 0) <= place.line:
            continue
        if isinstance(node, ast.stmt) and not hasattr(node, "body"):
            yield node
        for name in ("test", "iter"):
            if isinstance(node, ast.stmt) and hasattr(node, name):
                yield getattr(node, name)
