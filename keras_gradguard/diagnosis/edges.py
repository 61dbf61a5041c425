"""What a tensor was computed from, and whether a gradient passes back.

Function bodies are entered: a tensor is known by the context (the chain of
calls) in which its graph runs, so that a path leads through a `tf.function`,
a `tf.cond` branch or a loop body and back out of it.
"""

import dataclasses

import tensorflow as tf

from keras_gradguard.diagnosis import internals

# Their output depends on the shape of the input, never on its values.
SHAPE_ONLY = frozenset(
    (
        "Shape",
        "ShapeN",
        "Size",
        "Rank",
        "ZerosLike",
        "OnesLike",
        "TensorListElementShape",
        "TensorListLength",
    )
)
_probes = {}


def carries_gradient(dtype):
    """Returns whether a gradient can exist for tensors of `dtype`."""
    return (
        dtype.is_floating
        or dtype.is_complex
        or dtype in (tf.resource, tf.variant)
    )


class Context:
    """One run of a graph: the root's, or one call of a function body.

    Args:
        graph: The graph that runs.
        parent: The context of the call, `None` for the root.
        call: The op that runs this body, `None` for the root.
    """

    def __init__(self, graph, parent=None, call=None):
        self.graph = graph
        self.parent = parent
        self.call = call
        self._origins = {}
        self._bodies = {}

    def bodies(self, op):
        """Enters the function bodies that `op` runs.

        Args:
            op: An op of this graph.

        Returns:
            `(kind, contexts)` as `internals.bodies` has it, or `None`.
        """
        if op.name not in self._bodies:
            self._bodies[op.name] = self._enter(op)
        return self._bodies[op.name]

    def _enter(self, op):
        found = internals.bodies(op)
        if found is None:
            return None
        kind, graphs = found
        inner = [Context(graph, self, op) for graph in graphs]
        passed = [(Value(self, source),) for source in op.inputs]
        if kind == "branch":
            passed = passed[1:]
        elif kind == "while":
            carried = [Value(inner[1], out) for out in graphs[1].outputs]
            passed = [
                (*first, later)
                for first, later in zip(passed, carried, strict=True)
            ]
        for context in inner:
            placeholders = context.graph.inputs
            for placeholder, origins in zip(placeholders, passed, strict=True):
                context._origins[placeholder.name] = origins
        return kind, inner

    def origins(self, tensor):
        """Returns the outer values that a placeholder stands for."""
        return self._origins.get(tensor.name, ())

    def everything(self):
        """Yields this context and all that run inside it."""
        yield self
        for op in self.graph.get_operations():
            found = self.bodies(op)
            for context in found[1] if found else ():
                yield from context.everything()


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor in one context."""

    context: Context
    tensor: tf.Tensor

    @property
    def key(self):
        """A hashable name of this value."""
        tensor = self.tensor
        return (id(self.context), tensor.op.name, tensor.value_index)


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


def probe(op, position):
    """Asks TensorFlow which inputs of an op get a gradient from an output.

    The answer comes from the op's own gradient function, called in a
    scratch graph; the registry alone does not tell (`Round` is registered
    and returns None).

    Args:
        op: A `tf.Operation`; if it runs functions, they are not at hand.
        position: Index of the output.

    Returns:
        `(passes, error)`: a tuple of bools, one per input, and the text of
        the LookupError if no gradient is registered, else `None`.
    """
    output = op.outputs[position]
    closed = (False,) * len(op.inputs)
    if not carries_gradient(output.dtype):
        return closed, None
    if hasattr(op, "passes"):
        return op.passes(position)
    if internals.runs_functions(op):
        # Its body is not at hand, and a probe would rewrite the op.
        return tuple(carries_gradient(t.dtype) for t in op.inputs), None
    if internals.custom_gradient_name(op):
        return _ask(op, output)
    sides = (op.inputs, op.outputs)
    key = (op.type, position, *(tuple(t.dtype for t in s) for s in sides))
    if key not in _probes:
        _probes[key] = _ask(op, output)
    return _probes[key]


def _ask(op, output):
    sources = list(op.inputs)
    with op.graph.as_default():
        scratch = internals.new_graph("gradguard_probe")
    with scratch.as_default():
        seed = tf.compat.v1.placeholder(output.dtype, output.shape)
        try:
            gradients = tf.gradients(
                [output], sources, grad_ys=[seed], stop_gradients=sources
            )
        except LookupError as error:
            return (False,) * len(sources), str(error)
        except Exception:  # noqa: BLE001
            # Not a cut that can be proved, so none that may be reported.
            return (True,) * len(sources), None
    return tuple(gradient is not None for gradient in gradients), None
