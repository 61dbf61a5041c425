"""An exception that says the code has left TensorFlow."""

import inspect
import re
import traceback

import tensorflow as tf

from keras_gradguard.backend.tensorflow.tracing.graphs import traced_graph
from keras_gradguard.graph.ops import Graph
from keras_gradguard.records.finding import Finding
from keras_gradguard.source.frames import (
    frames_of_error,
    is_users,
    library_calls,
    place_at,
    user_place,
)
from keras_gradguard.source.syntax import (
    REBUILDERS,
    assigned_by_call,
    called_name,
    calls_in,
    names_on,
)

# Methods of a symbolic tensor that fail, by what the user's code wanted.
_ASKED = {
    "__array__": "numpy",
    "__bool__": "tensor_as_bool",
    "_disallow_bool_casting": "tensor_as_bool",
    "__iter__": "iterated_tensor",
    "_disallow_iteration": "iterated_tensor",
    "__len__": "iterated_tensor",
    "__index__": "iterated_tensor",
    "__float__": "python_value",
    "__int__": "python_value",
    "numpy": "python_value",
    "__getattr__": "python_value",
}
_SAID = (
    (r"using a symbolic .*as a Python .?bool", "tensor_as_bool"),
    (r"Iterating over a symbolic|iterating over", "iterated_tensor"),
    (r"to a numpy array", "numpy"),
    (r"interpreted as an integer", "iterated_tensor"),
    (r"len is not well defined", "iterated_tensor"),
    (r"could not be lifted out of a .tf\.function", "rebuilt_constant"),
    (r"Expected any non-tensor type, but got a tensor", "rebuilt_constant"),
    (r"numpy\(\) is only available when eager", "python_value"),
    (r"must be real number, not|argument must be a string", "python_value"),
    (r"does not support item assignment", "python_value"),
    (r"has no attribute '(numpy|item|tolist)'", "python_value"),
)
_TENSOR = re.compile(r"(Symbolic|Keras)?Tensor\b")
_LOOPS = ("predict", "predict_on_batch", "evaluate", "fit")
_LOOKUP = re.compile(r"gradient registry has no entry for: (\w+)")


def failure_finding(error, any_error=False):
    """Reads an exception for what it says about the gradient.

    Args:
        error: An exception raised while a training step was traced.
        any_error: Whether to take an exception of any sort: one that the
            step raises only when it is traced, while it runs eagerly.

    Returns:
        A `Finding` without variables, or `None` if the exception is not
        about gradients.
    """
    lookup = _LOOKUP.search(str(error))
    # AutoGraph makes another exception of it, which quotes the first.
    is_lookup = isinstance(error, LookupError) or "LookupError" in str(error)
    if is_lookup and lookup:
        return _unregistered(error, lookup.group(1))
    unwatched = _without_derivative(error)
    if unwatched is not None:
        return unwatched
    frames = frames_of_error(error)
    place = user_place(frames)
    cause = _cause(error)
    is_graphs = cause is not None or isinstance(error, RuntimeError)
    if is_graphs and _calls(error, place, _LOOPS):
        cause = "predict"
    if cause is None and not any_error:
        return None
    if cause in ("numpy", "python_value", "iterated_tensor"):
        if _calls(error, place, REBUILDERS):
            cause = "rebuilt_constant"
    return Finding(
        kind="untraceable",
        place=place,
        cause=cause,
        calls=library_calls(frames),
        exception=type(error).__name__,
        error=str(error),
        certainty="proved" if cause else "suspected",
    )


_NONE = re.compile(r"\bNone(Type)?\b")
_DERIVATIVES = ("gradient", "jacobian", "batch_jacobian")


def _without_derivative(error):
    """The `Finding` of a derivative that is `None` and is computed with.

    The value is looked up where the line failed; what assigned it must be a
    call of a tape's.
    """
    if not isinstance(error, (TypeError, ValueError)):
        return None
    if not _NONE.search(str(error)):
        return None
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        code = frame.f_code
        if not is_users(code.co_filename):
            continue
        place = place_at(code.co_filename, line, code.co_name)
        for name in sorted(names_on(place)):
            if frame.f_locals.get(name, error) is not None:
                continue
            made = assigned_by_call(place, name, _DERIVATIVES)
            if made is not None:
                return Finding(
                    kind="disconnected",
                    cause="no_derivative",
                    place=place_at(code.co_filename, made, code.co_name),
                    exception=type(error).__name__,
                    error=str(error),
                    notes=(f"`{name}` is `None` in line {line}",),
                )
        return None
    return None


def _unregistered(error, op_type):
    place, calls = user_place(frames_of_error(error)), ()
    for frame, _ in traceback.walk_tb(error.__traceback__):
        op = frame.f_locals.get("op")
        if isinstance(op, tf.Operation) and op.type == op_type:
            frames = traced_graph(op.graph).op(op).frames
            place, calls = user_place(frames), library_calls(frames)
    return Finding(
        kind="no_gradient_registered",
        place=place,
        op=op_type,
        calls=calls,
        exception=type(error).__name__,
        error=str(error),
    )


def _cause(error):
    """Returns what the code wanted of a tensor, `None` if nothing of it."""
    if isinstance(error, (SystemExit, KeyboardInterrupt, tf.errors.OpError)):
        return None
    frames = list(traceback.walk_tb(error.__traceback__))
    inner = frames[-1][0] if frames else None
    if inner is not None and _is_tensor(inner.f_locals.get("self")):
        asked = _ASKED.get(inner.f_code.co_name)
        if asked is not None:
            return asked
    text = str(error)
    if isinstance(error, AttributeError):
        is_tensors = _is_tensor(getattr(error, "obj", None))
        has_method = re.search(r"has no attribute '(numpy|item|tolist)'", text)
        return "python_value" if is_tensors or has_method else None
    if re.search(r"only supports singleton tf\.Variables", text):
        return "rebuilt_constant" if _keeps_computed(inner) else None
    for pattern, cause in _SAID:
        if re.search(pattern, text, re.IGNORECASE) and (
            cause == "rebuilt_constant"
            or "only available when eager" in text
            or _TENSOR.search(text)
            or "symbolic" in text
        ):
            return cause
    return None


def _keeps_computed(frame):
    """Whether a frame makes a variable of what the step has computed.

    A layer or a metric that is made in each step is refused in the same
    words, and keeps none of it.
    """
    arguments = [v for v in frame.f_locals.values() if isinstance(v, dict)]
    first = [known.get("initial_value") for known in arguments]
    tensors = [
        traced_graph(value.graph).tensor(value)
        for value in first
        if _is_tensor(value)
    ]
    return any(op.type == "Placeholder" for op in Graph.ancestors(tensors))


def _is_tensor(value):
    return isinstance(value, tf.Tensor) and not hasattr(value, "numpy")


def _calls(error, place, names):
    """Whether the failing expression is (inside) a call of one of `names`."""
    if place.line is None:
        return False
    where = None
    for frame in traceback.extract_tb(error.__traceback__):
        if (frame.filename, frame.lineno) == (place.file, place.line):
            where = frame
    if where is None or where.colno is None:
        first, last = (place.line, 0), (place.line, 1_000)
    else:
        first = (where.lineno, where.colno)
        last = (where.end_lineno, where.end_colno)
    for call in calls_in(place.file):
        start = (call.lineno, call.col_offset)
        end = (call.end_lineno, call.end_col_offset)
        covers = start <= first and last <= end
        if where is None or where.colno is None:
            covers = call.lineno == place.line and bool(call.args)
        if covers and called_name(call) in names:
            return True
    return False


def is_backward_crash(error):
    """Returns whether a gradient op got a gradient of the wrong shape.

    Args:
        error: An exception that has left a training step.
    """
    if not isinstance(error, tf.errors.InvalidArgumentError):
        return False
    if re.search("gradient_tape|Grad", str(error)):
        return True
    # Before TensorFlow 2.21 an eager op does not tell that it is a gradient's.
    tape = inspect.unwrap(tf.GradientTape.gradient).__code__
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code is tape for frame, _ in frames)


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
