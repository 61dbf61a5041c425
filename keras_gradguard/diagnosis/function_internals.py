"""The private TensorFlow internals of `tf.function`s, each once.

`tests/diagnosis/test_internals.py` names what a new release has changed.
"""

import inspect

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

_KIND = type(tf.function(lambda: None))

# Where Python enters a `tf.function`; `self` is the function.
ENTRIES = tuple(
    inspect.unwrap(method).__code__
    for method in (
        _KIND.__call__,
        _KIND._get_concrete_function_garbage_collected,
    )
)

# What a function knows of its traces.
_KEPT = ("_function_cache", "_function_captures")
_MADE = (
    "_created_variables",
    "_variable_creation_config",
    "_no_variable_creation_config",
    "_concrete_variable_creation_fn",
)


def without_traces(function):
    """Returns the traces, none, of a function that was never called.

    Args:
        function: A `tf.function`; it is left as it is.
    """
    names = vars(function)
    traces = {name: type(names[name])() for name in _KEPT if name in names}
    return traces | dict.fromkeys(_MADE[:-1])


def exchanged(function, traces):
    """Gives a function other traces.

    Args:
        function: A `tf.function`. One that is being traced right now goes on
            with the traces that it had as that began.
        traces: What this function or `without_traces` has returned.

    Returns:
        The traces that it had.
    """
    names = vars(function)
    known = {n: names.pop(n) for n in (*_KEPT, *_MADE) if n in names}
    names.update(traces)
    return known


def is_compiled_here():
    """Returns whether XLA compiles the function that is traced here."""
    graph = tf.compat.v1.get_default_graph()
    return control_flow_util.GraphOrParentsInXlaContext(graph)


def specs_traced(function):
    """Returns the specs of the iterators that a function was traced for.

    Args:
        function: A `tf.function`.
    """
    known = function._list_all_concrete_functions()
    arguments = [trace.structured_input_signature[0] for trace in known]
    specs = [given[0] for given in arguments if len(given) == 1]
    return [spec for spec in specs if isinstance(spec, tf.data.IteratorSpec)]


def graphs_traced(function):
    """Returns the graphs of a function's traces, by the type of their op.

    Args:
        function: A `tf.function`.
    """
    known = vars(function)["_function_cache"].values()
    return {tf.compat.as_str(trace.name): trace.graph for trace in known}


def functions_entered(last):
    """Returns the `tf.function`s that are being traced here, inner first.

    Args:
        last: Code of the frame up to which the stack is searched.
    """
    found, frame = [], inspect.currentframe()
    while frame is not None and frame.f_code is not last:
        if frame.f_code in ENTRIES:
            found.append(frame.f_locals["self"])
        frame = frame.f_back
    return found
