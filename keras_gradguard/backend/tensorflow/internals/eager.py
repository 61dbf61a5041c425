"""The private TensorFlow internals of eager execution, each once.

`tests/internals/test_eager.py` names what a release has changed.
"""

import contextlib
import inspect
import sys

import tensorflow as tf
from tensorflow.python.eager import backprop, context, record
from tensorflow.python.framework import op_callbacks
from tensorflow.python.ops import (
    custom_gradient,
    resource_variable_ops,
    script_ops,
)

# Custom gradients tell the tape of themselves through this function.
RECORD_OPERATION = record.record_operation.__code__
# Runs, eagerly, a function that brings its own gradient.
CUSTOM_GRADIENT = custom_gradient._eager_mode_decorator.__code__

# `tf.numpy_function`: eagerly no op, but a plain call with arrays.
NUMPY_FUNCTION = inspect.unwrap(script_ops.py_func_common).__code__

_VARIABLE = resource_variable_ops.BaseResourceVariable

# Looks up what a tensor does not have; NumPy asks for its own protocol.
LOOK_UPS = frozenset((tf.Tensor.__getattr__.__code__,))


@contextlib.contextmanager
def every_op_seen(see):
    """Calls `see` after each op that this thread runs eagerly.

    Args:
        see: A function of `(op_type, inputs, attributes, outputs)`; what it
            runs itself is not seen.
    """

    def callback(op_type, inputs, attrs, outputs, op_name=None, graph=None):
        if graph is None:
            for variable, value in _read_by_op(sys._getframe(2), inputs):
                dtype = ("dtype", variable.dtype.as_datatype_enum)
                see("ReadVariableOp", [variable.handle], dtype, [value])
            # Ops that Python runs, not C++, come with a name in bytes.
            name = op_type if isinstance(op_type, str) else op_type.decode()
            see(name, inputs, attrs, outputs)

    op_callbacks.add_op_callback(callback)
    try:
        yield
    finally:
        op_callbacks.remove_op_callback(callback)


def _read_by_op(frame, inputs):
    """What an op that is given a variable reads, of which C++ does not tell.

    Args:
        frame: The frame of the function of the op.
        inputs: What the op gets, eager tensors.

    Returns:
        A list of `(variable, value)`, in the order of the inputs.
    """
    given = []
    for argument in frame.f_locals.values():
        is_list = isinstance(argument, (list, tuple))
        given += argument if is_list else [argument]
    variables = [v for v in given if isinstance(v, _VARIABLE)]
    if not variables:
        return []
    known, found = set(map(id, given)), []
    for value in inputs:
        first = variables[0] if variables else None
        is_read = first is not None and id(value) not in known
        if is_read and (first.dtype, first.shape) == (value.dtype, value.shape):
            found.append((variables.pop(0), value))
    return found


@contextlib.contextmanager
def no_op_seen():
    """Keeps the ops of the block from `every_op_seen` and from tapes."""
    here = context.context()
    before = here.invoking_op_callbacks
    here.invoking_op_callbacks = True
    try:
        with no_tape():
            yield
    finally:
        here.invoking_op_callbacks = before


@contextlib.contextmanager
def functions_run_eagerly():
    """Runs the bodies of `tf.function`s op by op while the block runs."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def pull_back(op_type, attributes, inputs, outputs, gradients):
    """Runs the registered gradient function of one op.

    Args:
        op_type: Type of the op.
        attributes: Its attributes, names and values in turns.
        inputs: The tensors that went in.
        outputs: The tensors that came out.
        gradients: Gradients of the outputs.

    Returns:
        A list with the gradient of each input, `None` where it has none.

    Raises:
        LookupError: If no gradient is registered for the op.
    """
    found = backprop._gradient_function(
        op_type, attributes, len(inputs), inputs, outputs, gradients, (), ""
    )
    return list(found) if isinstance(found, (list, tuple)) else [found]


def no_tape():
    """Returns a context in which no gradient tape records."""
    return record.stop_recording()


def function_graph(frame):
    """Returns the graph of the `tf.function` that tells a tape of itself.

    Args:
        frame: The frame of `RECORD_OPERATION`.

    Returns:
        A `FuncGraph`, or `None` if it is a custom gradient that tells.
    """
    caller = frame.f_back.f_locals.get("self")
    return getattr(caller, "_func_graph", None)


def read_outs():
    """Returns what reads the numbers out of an eager tensor.

    Returns:
        A dict from code object to the name of its argument that is read, and
        the cause that a finding names.
    """
    causes = {
        "numpy": "python_value",
        "__array__": "numpy",
        "__float__": "python_value",
        "__int__": "python_value",
        "__index__": "python_value",
        "__complex__": "python_value",
        "__bool__": "tensor_as_bool",
    }
    eager = type(tf.constant(0.0))
    codes = {
        getattr(eager, name).__code__: ("self", cause)
        for name, cause in causes.items()
    }
    # An op that takes the variable reads it unseen.
    made = resource_variable_ops.ResourceVariable.__init__.__code__
    codes[made] = ("initial_value", "rebuilt_constant")
    return codes
