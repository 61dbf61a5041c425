"""Step 4: what the numbers of a tensor are; missing is a value too."""

import dataclasses
import typing

import numpy as np
import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.graphs import bodies_of


def is_condition(inputs, outputs):
    """Returns whether an op makes truth values of numbers.

    Args:
        inputs: Tensors that went in.
        outputs: Tensors that came out.
    """
    return (
        len(outputs) == 1
        and outputs[0].dtype == tf.bool
        and len(inputs) > 0
        and all(tensor.dtype != tf.bool for tensor in inputs)
    )


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
        found = bodies_of(op)
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


class Frame(typing.NamedTuple):
    """One frame of the stack that ran an op, as `tf.Operation` has it."""

    filename: str
    lineno: int
    name: str


@dataclasses.dataclass(eq=False)
class RanOp:
    """One op that ran.

    Args:
        number: Its place in the order of the ops.
        type: Type of the op, or the name of a custom gradient's function.
        attributes: Names and values in turns.
        inputs: Tensors that went in.
        outputs: Tensors that came out.
        traceback: `Frame`s, the outermost first.
        is_taped: Whether a gradient tape was recording.
        backward: The gradient function that the user gave, or `None` for
            the registered one.
        body: The graph of the `tf.function` that ran, `None` otherwise.
    """

    number: int
    type: str
    attributes: tuple
    inputs: tuple
    outputs: tuple
    traceback: tuple
    is_taped: bool = True
    backward: typing.Callable | None = None
    # As for an op of a graph, so that both are located alike.
    graph: None = None
    body: object = None


def array_of(tensor):
    """Returns the values of a tensor or of `IndexedSlices`, else `None`.

    Args:
        tensor: What an op took or gave: floats, integers, a resource, or
            `None`.

    Returns:
        A NumPy array. Of `IndexedSlices` it is the rows that are there.
    """
    if isinstance(tensor, tf.IndexedSlices):
        tensor = tensor.values
    if not isinstance(tensor, tf.Tensor) or not hasattr(tensor, "numpy"):
        return None
    if not (tensor.dtype.is_floating or tensor.dtype.is_complex):
        return None
    return tensor.numpy()


def is_finite(tensor):
    """Returns whether no element is NaN or Inf; what has none is finite."""
    found = array_of(tensor)
    return found is None or bool(np.isfinite(found).all())


def is_zero(tensor, noise=0.0):
    """Returns whether there is a gradient, and it is zero throughout.

    Args:
        tensor: A gradient, or `None`.
        noise: The largest absolute value that counts as zero.
    """
    found = array_of(tensor)
    if found is None:
        return False
    if noise:
        return bool(np.all(np.abs(found) <= noise))
    return not np.count_nonzero(found)


def bad_elements(tensor):
    """Returns the indices of the elements that are NaN or Inf.

    Returns:
        An integer array `[count, rank]`.
    """
    found = array_of(tensor)
    if found is None:
        return np.zeros((0, 0), int)
    return np.argwhere(~np.isfinite(found))


# `Write` stands for summaries and files.
_KINDS = ("Assign", "ResourceScatter", "Write")


def writes_state(op):
    """Returns whether an op changes a variable, a log or a file.

    Args:
        op: A `tf.Operation` or a `RanOp`.
    """
    has_handle = any(t.dtype == tf.resource for t in op.inputs)
    return has_handle and op.type.startswith(_KINDS)
