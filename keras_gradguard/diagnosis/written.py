"""Step 4: variables that a loss writes to each time it is called."""

import contextlib

import tensorflow as tf

from keras_gradguard.diagnosis.edges import Context

# `Write` stands for summaries and files.
_KINDS = ("Assign", "ResourceScatter", "Write")


def writes(op):
    """Returns whether an op changes a variable, a log or a file.

    Args:
        op: A `tf.Operation` or a `RanOp`.
    """
    has_handle = any(t.dtype == tf.resource for t in op.inputs)
    return has_handle and op.type.startswith(_KINDS)


def changes_state(trace):
    """Returns whether a traced loss changes anything.

    Args:
        trace: A `Trace`, also of a loss that fails further on.
    """
    return any(True for _ in _writing(trace))


@contextlib.contextmanager
def state_kept(trace):
    """Puts back what a traced loss writes to while the block runs.

    Args:
        trace: The `Trace`.
    """
    outer = {inner.name: handle for handle, inner in trace.graph.captures}
    values = {}
    for context, op in _writing(trace):
        tensor = op.inputs[0]
        while context.parent is not None:
            origins = context.origins(tensor)
            if not origins:
                break
            context, tensor = origins[0].context, origins[0].tensor
        handle = outer.get(tensor.name)
        if handle is not None and op.type.startswith("Assign"):
            dtype = op.get_attr("dtype")
            value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype)
            values[id(handle)] = handle, tf.identity(value)
    try:
        yield
    finally:
        for handle, value in values.values():
            tf.raw_ops.AssignVariableOp(resource=handle, value=value)


def _writing(trace):
    for context in Context(trace.graph).everything():
        for op in context.graph.get_operations():
            if writes(op):
                yield context, op
