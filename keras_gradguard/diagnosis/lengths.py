"""Values carried in a length: how many rows were found, read off a shape.

A shape is known by the shapes of what it is made from, but for those of ops
such as `Where`, which find as many rows as there are.
"""

import tensorflow as tf

from keras_gradguard.diagnosis import internals
from keras_gradguard.diagnosis.edges import (
    SHAPE_ONLY,
    Edge,
    Value,
    carries_gradient,
)

_OPAQUE = (tf.resource, tf.variant, tf.string)


def edges(value):
    """Returns the closed edges from what decides the shape that is read.

    Args:
        value: The `Value` of an op that reads a shape; others have none.
    """
    op = value.tensor.op
    if op.type not in SHAPE_ONLY:
        return []
    number = value.tensor.value_index if op.type == "ShapeN" else 0
    read = Value(value.context, op.inputs[number])
    found = []
    for decider in _deciders(read):
        context, maker = decider.context, decider.tensor.op
        if carries_gradient(decider.tensor.dtype):
            # Its elements are not read, only how many they are.
            sources = [Value(context, source) for source in maker.inputs]
            found += [Edge(s, context, maker, is_open=False) for s in sources]
        else:
            found.append(Edge(decider, value.context, op, is_open=False))
    return found


def _deciders(value):
    """The values whose number of elements is not that of what made them."""
    queue, seen, found = [value], set(), []
    while queue:
        value = queue.pop()
        context, tensor = value.context, value.tensor
        if value.key in seen or tensor.shape.is_fully_defined():
            continue
        seen.add(value.key)
        inner = context.bodies(tensor.op) if tensor.op.inputs else None
        if not tensor.op.inputs:
            queue += context.origins(tensor)
        elif inner is not None:
            kind, bodies = inner
            bodies = bodies[1:] if kind == "while" else bodies
            queue += [
                Value(body, body.graph.outputs[tensor.value_index])
                for body in bodies
            ]
        elif _is_found(tensor):
            found.append(value)
        else:
            queue += [Value(context, source) for source in tensor.op.inputs]
    return found


def _is_found(tensor):
    """Whether constants of known shapes leave the shape of an op unknown."""
    op = tensor.op
    is_plain = all(
        source.dtype not in _OPAQUE and source.shape.rank is not None
        for source in op.inputs
    )
    if not is_plain or tensor.shape.rank is None:
        return False
    with op.graph.as_default():
        scratch = internals.new_graph("gradguard_lengths")
    with scratch.as_default():
        inputs = [_constant(source) for source in op.inputs]
        try:
            made = scratch.create_op(
                op.type,
                inputs,
                [output.dtype for output in op.outputs],
                attrs=dict(op.node_def.attr),
            )
        except (ValueError, TypeError, tf.errors.OpError):
            # They do not fit each other, which says nothing.
            return False
    return not made.outputs[tensor.value_index].shape.is_fully_defined()


def _constant(source):
    """What is known of a tensor as a constant; unknown lengths are 1."""
    value = tf.get_static_value(source)
    if value is not None:
        return tf.constant(value, source.dtype)
    shape = [1 if n is None else n for n in source.shape.as_list()]
    return tf.cast(tf.fill(shape, 1), source.dtype)
