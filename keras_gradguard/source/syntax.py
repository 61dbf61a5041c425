"""A line as syntax; each file is parsed once."""

import ast
import functools

from keras_gradguard.source.lines import lines_of

REBUILDERS = ("constant", "convert_to_tensor", "Variable")


def rebuilds(place):
    """Returns whether a line makes a tensor of what its arguments give.

    Args:
        place: The user's line.
    """
    return any(
        call.lineno == place.line
        and call.args
        and called_name(call) in REBUILDERS
        for call in calls_in(place.file)
    )


def called_name(call):
    """Returns the name of the method or function of a module in a call."""
    return getattr(call.func, "attr", None)


def calls_in(file):
    """Returns the `ast.Call`s of a file, in no special order."""
    return [node for node in ast.walk(tree_of(file)) if type(node) is ast.Call]


def tree_of(file):
    """Returns the syntax tree of a file, an empty one if it has none.

    Args:
        file: As a code object has it; `None` for no file.
    """
    return _parsed("".join(lines_of(file)))


@functools.lru_cache(maxsize=16)
def _parsed(text):
    # By its text: a notebook runs a cell anew, an editor saves a file.
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def call_at(place):
    """Returns the text of the largest call that begins on a line, or `""`.

    Args:
        place: The user's line.
    """
    found = [call for call in calls_in(place.file) if call.lineno == place.line]
    if not found:
        return ""
    last = max(call.end_lineno for call in found)
    return "".join(lines_of(place.file)[place.line - 1 : last])


def returns_of(code):
    """Returns the lines at which a function returns `None` for something.

    Args:
        code: The code object of a function or lambda.

    Returns:
        Line numbers; those of all returns where none names `None`.
    """
    found = []
    for node in ast.walk(tree_of(code.co_filename)):
        if isinstance(node, ast.Lambda) and node.lineno == code.co_firstlineno:
            if code.co_name == "<lambda>":
                found.append(node.body)
        elif getattr(node, "name", None) == code.co_name and isinstance(
            node, ast.FunctionDef
        ):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            if first == code.co_firstlineno:
                found += [n for n in ast.walk(node) if type(n) is ast.Return]
    named = [
        node
        for node in found
        if any(getattr(n, "value", 0) is None for n in ast.walk(node))
    ]
    return [node.lineno for node in named or found]


def assigned_by_call(place, name, called):
    """Returns the line at which a call assigned a name, the last one above.

    Args:
        place: The user's line.
        name: A name that the line uses.
        called: Last parts of the names of the functions that count.

    Returns:
        The line, `None` if something else assigned the name last.
    """
    found = [
        node
        for node in ast.walk(tree_of(place.file))
        if isinstance(node, ast.Assign)
        and node.lineno <= place.line
        and any(getattr(t, "id", None) == name for t in node.targets)
    ]
    last = max(found, key=lambda node: node.lineno, default=None)
    if last is None or not isinstance(last.value, ast.Call):
        return None
    return last.lineno if called_name(last.value) in called else None


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


def _simple(place):
    """The statements that hold no other statement, and headers of others."""
    for node in ast.walk(tree_of(place.file)):
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
        for node in ast.walk(tree_of(place.file))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.lineno <= place.line <= node.end_lineno
    ]
    body = around[-1] if around else tree_of(place.file)
    for node in ast.walk(body):
        if getattr(node, "lineno", 0) <= place.line:
            continue
        if isinstance(node, ast.stmt) and not hasattr(node, "body"):
            yield node
        for name in ("test", "iter"):
            if isinstance(node, ast.stmt) and hasattr(node, name):
                yield getattr(node, name)
