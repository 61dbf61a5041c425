"""Whether a value that left TensorFlow can be what cut the gradient.

An eager step may read out a tensor and go on: a label, a value to print. The
trace stops there all the same, so the line is only a suspect.
"""

import ast
import linecache
import traceback

import tensorflow as tf


def read_tensors(error, place):
    """Returns the tensors that the failing line names.

    Args:
        error: The exception that ended a trace.
        place: The user's line that it came from.
    """
    names = {
        node.id
        for statement in _statements(place)
        for node in ast.walk(statement)
        if isinstance(node, ast.Name)
    }
    found = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        if (frame.f_code.co_filename, line) == (place.file, place.line):
            values = [frame.f_locals.get(name) for name in names]
            found = [v for v in values if isinstance(v, tf.Tensor)]
    return found


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
    if not around:
        return
    for node in ast.walk(around[-1]):
        if getattr(node, "lineno", 0) <= place.line:
            continue
        if isinstance(node, ast.stmt) and not hasattr(node, "body"):
            yield node
        for name in ("test", "iter"):
            if isinstance(node, ast.stmt) and hasattr(node, name):
                yield getattr(node, name)
