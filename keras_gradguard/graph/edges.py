"""What a tensor was computed from, and whether a gradient passes back.

Function bodies are entered: a tensor is known by the context (the chain of
calls) in which its graph runs, so that a path leads through a function, a
branch or a loop body and back out of it.
"""

import collections
import dataclasses

from keras_gradguard.graph.ops import (
    LIST,
    RESOURCE,
    SHAPE_ONLY,
    TEXT,
    Context,
    Op,
    Value,
    walk,
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
        error: The backend's words if `op` has no gradient at all.
        is_state: Whether `op` stored `source` in a variable that the later
            value was read from.
    """

    source: Value
    context: Context
    op: Op
    is_open: bool = True
    selects: bool = False
    decides: bool = False
    error: str | None = None
    is_state: bool = False


# In place of the number of a branch: what a custom gradient was written for.
FORWARD = "forward"


def edges(value, branch=None):
    """Returns the edges that lead to a value.

    Args:
        value: A `Value`.
        branch: `None` to see every branch of conditionals, or the number of
            the only branch to see; Python functions then pass nothing.
            `FORWARD` to see, in place of a custom gradient, the forward pass
            that it belongs to.

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
    if branch == FORWARD:
        if op.has_own_gradient and tensor.index < len(op.inputs):
            # TensorFlow marks what the function returned, which comes first.
            return [Edge(Value(context, op.inputs[tensor.index]), context, op)]
        branch = None
    passes, error = _asked(op, tensor)
    if op.type == "EagerPyFunc" and branch is not None:
        passes = (False,) * len(passes)
    has_data = any(t.carries_gradient and t.kind != RESOURCE for t in op.inputs)
    return [
        Edge(
            Value(context, source),
            context,
            op,
            is_open=is_open,
            selects=has_data and not source.carries_gradient,
            error=error,
        )
        for source, is_open in zip(op.inputs, passes, strict=True)
    ]


def _asked(op, tensor):
    if not tensor.carries_gradient:
        return (False,) * len(op.inputs), None
    return op.graph.oracle.passes(op, tensor.index)


def _through_bodies(context, tensor, kind, bodies, branch):
    # What a loop passes on unchanged is reached through its body.
    op, position = tensor.op, tensor.index
    if kind == "branch" and branch not in (None, FORWARD):
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


def length_edges(value):
    """Returns the closed edges from what decides the shape that is read.

    Args:
        value: The `Value` of an op that reads a shape; others have none.
    """
    op = value.tensor.op
    if op.type not in SHAPE_ONLY:
        return []
    number = value.tensor.index if op.type == "ShapeN" else 0
    read = Value(value.context, op.inputs[number])
    found = []
    for decider in _deciders(read):
        context, maker = decider.context, decider.tensor.op
        if decider.tensor.carries_gradient:
            # Its elements are not read, only how many they are.
            sources = [Value(context, source) for source in maker.inputs]
            found += [Edge(s, context, maker, is_open=False) for s in sources]
        else:
            found.append(Edge(decider, value.context, op, is_open=False))
    return found


def _deciders(value):
    """The values whose number of elements is not that of what made them."""
    return [found for found in walk([value], _shape_from) if _decides(found)]


def _shape_from(value):
    """The values that the shape of another one is taken from."""
    context, tensor = value.context, value.tensor
    if tensor.has_known_shape:
        return []
    if not tensor.op.inputs:
        return context.origins(tensor)
    inner = context.bodies(tensor.op)
    if inner is None:
        if _is_found(tensor):
            return []
        return [Value(context, source) for source in tensor.op.inputs]
    kind, bodies = inner
    bodies = bodies[1:] if kind == "while" else bodies
    return [Value(body, body.graph.outputs[tensor.index]) for body in bodies]


def _decides(value):
    tensor = value.tensor
    return bool(
        not tensor.has_known_shape
        and tensor.op.inputs
        and value.context.bodies(tensor.op) is None
        and _is_found(tensor)
    )


def _is_found(tensor):
    """Whether inputs of known shapes leave the shape of an output unknown."""
    op = tensor.op
    is_plain = all(
        source.kind not in (RESOURCE, LIST, TEXT) and source.shape is not None
        for source in op.inputs
    )
    if not is_plain or tensor.shape is None:
        return False
    return op.graph.oracle.finds_length(op, tensor.index)


class Writers:
    """The ops that store a value in a variable, by variable.

    Args:
        root: The root `Context`.
    """

    def __init__(self, root):
        self._stores = collections.defaultdict(list)
        for context in root.everything():
            for op in context.graph.ops:
                if op.outputs:
                    continue
                for handle in _resources(op):
                    key = _origin(Value(context, handle)).key
                    self._stores[key].append((context, op))

    def edges(self, value):
        """Returns the closed edges from what a read value was stored as."""
        op = value.tensor.op
        found = []
        for handle in _resources(op):
            key = _origin(Value(value.context, handle)).key
            for context, store in self._stores.get(key, ()):
                if context is value.context and store.number > op.number:
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
                    if source.kind != RESOURCE
                ]
        return found


def _resources(op):
    return [t for t in op.inputs if t.kind == RESOURCE]


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


# What takes a handle and leaves the variable as it is.
_READERS = frozenset(
    (
        "Identity",
        "IdentityN",
        "ReadVariableOp",
        "ResourceGather",
        "ResourceGatherNd",
        "VariableShape",
        "VarIsInitializedOp",
    )
)


def written_tensors(graph):
    """Returns the handles of the variables that a step writes to, a set.

    Args:
        graph: The `Graph` of the step.
    """
    found = set()
    for context in Context(graph).everything():
        for op in context.graph.ops:
            if op.type in _READERS or context.bodies(op) is not None:
                continue
            for handle in _resources(op):
                found.add(_origin(Value(context, handle)).tensor)
    return found
