"""Whether a value that left TensorFlow can be what cut the gradient.

An eager step may read out a tensor and go on: a label, a value to print. The
trace stops there all the same, so the line is only a suspect.
"""

import ast
import linecache
import traceback

import tensorflow as tf

from keras_gradguard.diagnosis.failure import rebuilds
from keras_gradguard.finding import Finding

_SUSPECT_NOTE = (
    "more was read out, or some variables are connected; this is the first "
    "line whose value is used"
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
    reads = {}
    for read in location.trace.read if numbers else ():
        if feeds_result(read.place):
            reads.setdefault((read.place.file, read.place.line), read)
    ordered = sorted(reads.values(), key=lambda r: _RANKS.get(r.cause, 0))
    hit, rest = {}, list(numbers)
    for position, read in enumerate(ordered):
        before = location.of_losses([read.tensor])
        found = [n for n in rest if before.distance(n) < float("inf")]
        rest = [n for n in rest if n not in found]
        if found:
            hit[position] = found
    is_proved = len(reads) == 1 and not rest
    is_proved &= len(numbers) == len(location.paths)
    findings = [
        Finding(
            kind="untraceable",
            cause=_cause(ordered[position]),
            place=ordered[position].place,
            variables=tuple(location.paths[n] for n in found),
            notes=() if is_proved else (_SUSPECT_NOTE,),
            certainty="proved" if is_proved else "suspected",
        )
        for position, found in hit.items()
    ]
    return findings, rest


def _cause(read):
    is_number = read.cause in ("numpy", "python_value")
    if is_number and rebuilds(read.place):
        return "rebuilt_constant"
    return read.cause


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

    `print(float(x))` and `history.append(v)` throw their value away, unless
    `history` is used further on; what is returned, tested or computed with
    is used. Without source it is.

    Args:
        place: The user's line.
    """
    statements = _statements(place)
    if not statements:
        return True
    statement = statements[-1]
    if not isinstance(statement, (ast.Expr, ast.Assign, ast.AnnAssign)):
        return True
    names = _holders(statement)
    if not names:
        return not isinstance(statement, ast.Expr)
    later = list(_later_statements(place))
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        for statement in later:
            if not _loads(statement, name):
                continue
            if not isinstance(statement, ast.Expr):
                return True
            more = _holders(statement) - names
            names |= more
            waiting += more
    return False


def _holders(statement):
    """The names that hold what a statement makes: `x = v`, `x.append(v)`."""
    if not isinstance(statement, ast.Expr):
        return {
            node.id
            for node in ast.walk(statement)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
    held = getattr(statement.value, "func", None)
    if not isinstance(held, ast.Attribute):
        return set()
    while isinstance(held, (ast.Attribute, ast.Subscript)):
        held = held.value
    return {held.id} if isinstance(held, ast.Name) else set()


def _loads(statement, name):
    return any(
        isinstance(node, ast.Name)
        and node.id == name
        and isinstance(node.ctx, ast.Load)
        for node in ast.walk(statement)
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
