"""What a tensor was computed from, and whether a gradient passes back.

Function bodies are entered: a tensor is known by the context (the chain of
calls) in which its graph runs, so that a path leads through a `tf.function`,
a `tf.cond` branch or a loop body and back out of it.
"""

import collections
import dataclasses

import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.graphs import (
    new_graph,
)
from keras_gradguard.backend.tensorflow.tracing.gradients import probe
from keras_gradguard.graph.ops import (
    SHAPE_ONLY,
    Context,
    Value,
    carries_gradient,
)


@dataclasses.dataclass(frozen=True)
class Edge:
    """`source` went into `op` to make some later value.

    Args:
        source: The value that went in.
        context: The context that `op` runs in.
        op: The op it went into.
        is_open: Whether a gradient passes back through `op` to `source`.
        selects: Whether `source` only chooses among other inputs: a
            condition, an index, a shape.
        decides: Whether `source` only chooses the branch, or ends the loop.
        error: Text of the LookupError if `op` has no gradient at all.
        is_state: Whether `op` stored `source` in a variable that the later
            value was read from.
    """

    source: Value
    context: Context
    op: tf.Operation
    is_open: bool = True
    selects: bool = False
    decides: bool = False
    error: str | None = None
    is_state: bool = False


def edges(value, branch=None):
    """Returns the edges that lead to a value.

    Args:
        value: A `Value`.
        branch: `None` to see every branch of conditionals, or the number of
            the only branch to see; Python functions then pass nothing.

    Returns:
        A list of `Edge`s.
    """
    context, tensor = value.context, value.tensor
    op = tensor.op
    if not op.inputs:
        return [Edge(o, context, op) for o in context.origins(tensor)]
    found = context.bodies(op)
    if found is not None:
        return _through_bodies(context, tensor, *found, branch)
    if op.type in SHAPE_ONLY:
        return []
    passes, error = probe(op, tensor.value_index)
    if op.type == "EagerPyFunc" and branch is not None:
        passes = (False,) * len(passes)
    has_data = any(
        carries_gradient(t.dtype) and t.dtype != tf.resource for t in op.inputs
    )
    return [
        Edge(
            Value(context, source),
            context,
            op,
            is_open=is_open,
            selects=has_data and not carries_gradient(source.dtype),
            error=error,
        )
        for source, is_open in zip(op.inputs, passes, strict=True)
    ]


def _through_bodies(context, tensor, kind, bodies, branch):
    # What a loop passes on unchanged is reached through its body.
    op, position = tensor.op, tensor.value_index
    if kind == "branch" and branch is not None:
        bodies = [bodies[min(branch, len(bodies) - 1)]]
    if kind == "while":
        decision = Value(bodies[0], bodies[0].graph.outputs[0])
        bodies = bodies[1:]
    elif kind == "branch":
        decision = Value(context, op.inputs[0])
    found = [
        Edge(Value(body, body.graph.outputs[position]), context, op)
        for body in bodies
    ]
    if kind != "call":
        chooses = {"is_open": False, "selects": True, "decides": True}
        found.append(Edge(decision, context, op, **chooses))
    return found


_OPAQUE = (tf.resource, tf.variant, tf.string)


def length_edges(value):
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
        scratch = new_graph("gradguard_lengths")
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


class Writers:
    """The ops that store a value in a variable, by variable.

    Args:
        root: The root `Context`.
    """

    def __init__(self, root):
        self._stores = collections.defaultdict(list)
        for context in root.everything():
            for number, op in enumerate(context.graph.get_operations()):
                if op.outputs:
                    continue
                for handle in _resources(op):
                    key = _origin(Value(context, handle)).key
                    self._stores[key].append((context, number, op))

    def edges(self, value):
        """Returns the closed edges from what a read value was stored as."""
        op = value.tensor.op
        found = []
        for handle in _resources(op):
            key = _origin(Value(value.context, handle)).key
            for context, number, store in self._stores.get(key, ()):
                same = context is value.context
                if same and number > _number(op):
                    continue
                found += [
                    Edge(
                        Value(context, source),
                        context,
                        store,
                        is_open=False,
                        is_state=True,
                    )
                    for source in store.inputs
                    if source.dtype != tf.resource
                ]
        return found


def _resources(op):
    return [t for t in op.inputs if t.dtype == tf.resource]


def _number(op):
    return op.graph.get_operations().index(op)


def _origin(value):
    """Follows a handle out of function bodies to where it comes from."""
    while True:
        op = value.tensor.op
        if op.type == "Identity":
            value = Value(value.context, op.inputs[0])
            continue
        origins = value.context.origins(value.tensor)
        if not origins:
            return value
        value = origins[0]
