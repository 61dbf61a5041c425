"""A step as ops and the tensors between them; knows no framework.

A backend fills these classes as a step runs, or adapts a graph of its own
to them; a test makes a graph by hand with `Graph.add`.
"""

import collections
import dataclasses

import numpy as np

# What a tensor holds: numbers that may have a gradient, other numbers, a
# variable's handle, a list of tensors, or text.
DATA, INTEGER, RESOURCE, LIST, TEXT = (
    "data",
    "integer",
    "resource",
    "list",
    "text",
)
_KINDS = {"resource": RESOURCE, "variant": LIST, "string": TEXT}
_FLOATS = ("float", "bfloat", "complex")

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


class Tensor:
    """What an op has made.

    Args:
        op: The `Op` that made it.
        index: Its place among the outputs.
        dtype: Name of its type, such as `"float32"`.
        shape: A tuple with `None` for an unknown length; `None` if not even
            the rank is known.
        native: What the backend knows it by.

    Attributes:
        inside: The tensor of an op inside of a hand-written gradient that
            this one gives out as its own, if it is one.
    """

    def __init__(self, op, index, dtype, shape=None, native=None):
        self.op = op
        self.index = index
        self.dtype = dtype
        self.native = native
        self.inside = None
        self._shape = shape
        self._consumers = []

    @property
    def shape(self):
        """The shape, see the constructor."""
        return self._shape

    @property
    def kind(self):
        """`DATA`, `INTEGER`, `RESOURCE`, `LIST` or `TEXT`."""
        if self.dtype.startswith(_FLOATS):
            return DATA
        return _KINDS.get(self.dtype, INTEGER)

    @property
    def carries_gradient(self):
        """Whether a gradient can exist for it."""
        return self.kind in (DATA, RESOURCE, LIST)

    @property
    def has_known_shape(self):
        """Whether each length of its shape is known."""
        return self.shape is not None and None not in self.shape

    def consumers(self):
        """Returns the ops that it goes into."""
        return self._consumers

    def array(self):
        """Returns its numbers in a step that was recorded.

        Returns:
            A NumPy array; `None` for what is no data, or not known.
        """
        oracle = self.op.graph.oracle
        if oracle is None or self.kind != DATA:
            return None
        return oracle.array(self.native)

    def __repr__(self):
        return f"{self.op.name}:{self.index}"


class Op:
    """One op of a graph.

    Args:
        graph: The `Graph` that it runs in.
        number: Its place in the order of its graph; -1 for what stands for a
            value from outside.
        type: The backend's own name, such as `"MatMul"`.
        inputs: The `Tensor`s that go in.
        name: Its name, unique in its graph.
        is_taped: Whether a tape was recording as it ran.
        has_own_gradient: Whether somebody wrote its gradient by hand.
        frames: `(file, line, function)`s that made it, outermost first.
        native: What the backend knows it by.

    Attributes:
        outputs: The `Tensor`s that come out.
        layer: Path of the innermost layer that it runs in, or `None`.
    """

    def __init__(
        self,
        graph,
        number,
        type,
        inputs=(),
        name=None,
        is_taped=True,
        has_own_gradient=False,
        frames=(),
        native=None,
    ):
        self.graph = graph
        self.number = number
        self.type = type
        self.inputs = tuple(inputs)
        self.outputs = ()
        self.name = name or f"{type}_{number}"
        self.is_taped = is_taped
        self.has_own_gradient = has_own_gradient
        self.native = native
        self.layer = None
        self._frames = frames
        self._bodies = None

    @property
    def frames(self):
        """`(file, line, function)`s that made it, the outermost first."""
        return self._frames

    @property
    def bodies(self):
        """The graphs that it runs, `None` for an ordinary op.

        `("call" | "branch" | "while", [Graph, ...])`; a while op has its
        condition first, its body second.
        """
        return self._bodies

    def run(self, kind, graphs):
        """Gives it the graphs that it runs, see `bodies`."""
        self._bodies = kind, list(graphs)

    def __repr__(self):
        return f"<{self.name}>"


class Graph:
    """Ops in the order in which they run.

    Args:
        oracle: What asks the backend; an object with

            - `passes(op, index)`: `(bools, error)`: which inputs of an op
              get a gradient from one of its outputs, and the backend's words
              if it has no gradient at all, else `None`.
            - `gives_zeros(op, index)`: whether one of them does not, because
              its gradient is zero whatever the data are.
            - `constant(tensor)`: the array of a tensor that is a constant,
              `None` for all else.
            - `own_gradient(op)`: the function that somebody has written for
              its gradient, `None` where there is none.
            - `finds_length(op, index)`: whether the shape of an output hangs
              on the values that go in.
            - `frames_to_stand_in(op)`: the frames that led to an op which
              stands in for a weight that is not made yet, else none.

            and, for a step that was recorded with its values:

            - `pull(op, incoming, compiled)`: the gradient of each input from
              those of the outputs, `None` where there is none, and in place
              of all if it cannot be computed; `compiled` is whether as the
              compiler of the backend computes it.
            - `seed(tensor)`: the gradient of ones that a loss begins with.
            - `total(gradients)`: the sum of several gradients of a tensor.
            - `array(value, dense=False)`: a NumPy array of a gradient or of
              a native tensor, `None` if it has none. Of a gradient of a few
              rows it is those rows, unless it is to be `dense`.
            - `is_rows(gradient)`: whether it is one of a few rows.
            - `with_finite(gradient)`: a gradient with small numbers in place
              of what is not finite.

    Attributes:
        ops: The `Op`s.
        inputs: The `Tensor`s that the graph is given.
        outputs: Those that it gives back.
    """

    # What `add` makes.
    kind_of_op = Op

    def __init__(self, oracle=None):
        self.oracle = oracle
        self.ops = []
        self.inputs = []
        self.outputs = []
        self._outside = 0
        self._standing = collections.defaultdict(list)

    def add(self, type, inputs=(), outputs=("float32",), **known):
        """Adds an op that has just run, or will.

        Args:
            type: See `Op`.
            inputs: See `Op`.
            outputs: For each output the name of its type, or arguments of
                `Tensor` from `dtype` on.
            **known: Further arguments of `Op`.

        Returns:
            The `Op`.
        """
        op = self.kind_of_op(self, len(self.ops), type, inputs, **known)
        op.outputs = _outputs(op, outputs)
        self.ops.append(op)
        for tensor in op.inputs:
            tensor.consumers().append(op)
        return op

    def given(self, dtype="float32", shape=None, native=None, variable=None):
        """Adds a value from outside, which no op of this graph makes.

        Args:
            dtype: See `Tensor`.
            shape: See `Tensor`.
            native: See `Tensor`.
            variable: The variable that it stands for, if any.

        Returns:
            The `Tensor`.
        """
        op = Op(self, -1, "Placeholder", name=f"outside_{self._outside}")
        self._outside += 1
        op.outputs = _outputs(op, [(dtype, shape, native)])
        (tensor,) = op.outputs
        self.inputs.append(tensor)
        if variable is not None:
            self._standing[id(variable)].append(tensor)
        return tensor

    def standing_for(self, variable):
        """Returns the tensors that stand for a variable, a list.

        Args:
            variable: A variable, or a native tensor from outside.
        """
        return self._standing.get(id(variable), [])

    def tensor(self, native):
        """Returns the `Tensor` of a native one, `None` if it is unknown."""
        del native
        return None

    @staticmethod
    def ancestors(tensors):
        """Maps each op that some tensors were computed from to the next one.

        Bodies are not entered.

        Args:
            tensors: `Tensor`s.

        Returns:
            A dict of `Op` to the `Op` that used it on the shortest way,
            `None` for those that made `tensors`.
        """
        queue = collections.deque((tensor, None) for tensor in tensors)
        found = {}
        while queue:
            tensor, later = queue.popleft()
            op = tensor.op
            if op.number >= 0 and op not in found:
                found[op] = later
                queue.extend((source, op) for source in op.inputs)
        return found

    @staticmethod
    def descendants(tensors, passes=lambda op: True):
        """Returns the tensors that are computed from some, a dict as a set.

        Args:
            tensors: `Tensor`s; they count only if one is made of another.
            passes: Whether the outputs of an `Op` count.
        """
        queue, found = list(tensors), {}
        while queue:
            for op in queue.pop().consumers():
                if passes(op):
                    new = [t for t in op.outputs if t not in found]
                    found |= dict.fromkeys(new)
                    queue += new
        return found


def _outputs(op, outputs):
    given = [(one,) if isinstance(one, str) else one for one in outputs]
    return tuple(Tensor(op, n, *one) for n, one in enumerate(given))


class Context:
    """One run of a graph: the root's, or one call of a function body.

    Args:
        graph: The `Graph` that runs.
        parent: The context of the call, `None` for the root.
        call: The op that runs this body, `None` for the root.
    """

    def __init__(self, graph, parent=None, call=None):
        self.graph = graph
        self.parent = parent
        self.call = call
        self._origins = {}
        self._bodies = {}

    @property
    def root(self):
        """The outermost context that this one runs in."""
        context = self
        while context.parent is not None:
            context = context.parent
        return context

    def bodies(self, op):
        """Enters the function bodies that `op` runs.

        Args:
            op: An op of this graph.

        Returns:
            `(kind, contexts)` as `Op.bodies` has it, or `None`.
        """
        if op not in self._bodies:
            self._bodies[op] = self._enter(op)
        return self._bodies[op]

    def _enter(self, op):
        found = op.bodies
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
                context._origins[placeholder] = origins
        return kind, inner

    def origins(self, tensor):
        """Returns the outer values that a placeholder stands for."""
        return self._origins.get(tensor, ())

    def everything(self):
        """Yields this context and all that run inside it."""
        yield self
        for op in self.graph.ops:
            found = self.bodies(op)
            for context in found[1] if found else ():
                yield from context.everything()


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor in one context."""

    context: Context
    tensor: Tensor

    @property
    def key(self):
        """What makes two values the same one; both live as long as they."""
        return (id(self.context), id(self.tensor))


def walk(values, sources):
    """Yields values and what they lead to, each once, the nearest first.

    Args:
        values: `Value`s to begin with.
        sources: Returns the values that a value leads to.
    """
    queue, seen = collections.deque(values), set()
    while queue:
        value = queue.popleft()
        if value.key not in seen:
            seen.add(value.key)
            yield value
            queue.extend(sources(value))


def is_condition(op):
    """Returns whether an op makes truth values of numbers.

    Args:
        op: An `Op`.
    """
    return (
        len(op.outputs) == 1
        and op.outputs[0].dtype == "bool"
        and len(op.inputs) > 0
        and all(tensor.dtype != "bool" for tensor in op.inputs)
    )


def is_step_function(op):
    """Returns whether an op makes numbers that are constant piece by piece.

    Such as `sign`, `floor` and `round`: the backend gives them no gradient, or
    zeros.

    Args:
        op: An `Op`.
    """
    if len(op.outputs) != 1 or op.outputs[0].kind != DATA or op.bodies:
        return False
    if op.type in SHAPE_ONLY or op.type == "StopGradient":
        return False
    if all(tensor.kind != DATA for tensor in op.inputs):
        return False
    passes, error = op.graph.oracle.passes(op, 0)
    return error is None and not any(passes)


# `Write` stands for summaries and files.
_WRITERS = ("Assign", "ResourceScatter", "Write")


def writes_state(op):
    """Returns whether an op changes a variable, a log or a file.

    Args:
        op: An `Op`.
    """
    has_handle = any(t.kind == RESOURCE for t in op.inputs)
    return has_handle and op.type.startswith(_WRITERS)


# They return the values of their input in another shape or dtype.
RESHAPING = frozenset(
    ("Cast", "ExpandDims", "Identity", "Reshape", "Squeeze", "Transpose")
)


def before_reshaping(tensor):
    """Returns the tensor that a chain of `RESHAPING` ops begins with.

    Args:
        tensor: A `Tensor`, the result of the chain.
    """
    while tensor.op.type in RESHAPING and tensor.op.inputs:
        tensor = tensor.op.inputs[0]
    return tensor


def is_constant(op):
    """Returns whether an op is a softmax over one value, which is always 1.

    Its derivative is zero by its formula. A kernel may return rounding errors
    instead: some return 0.99999994 for such a softmax.

    Args:
        op: An `Op`.
    """
    if op.type not in ("Softmax", "LogSoftmax"):
        return False
    shape = op.inputs[0].shape
    return bool(shape) and shape[-1] == 1


def is_finite(array):
    """Returns whether no element is NaN or Inf; what has none is finite.

    Args:
        array: A NumPy array, or `None`.
    """
    return array is None or bool(np.isfinite(array).all())


def is_zero(array, noise=0.0):
    """Returns whether there is a gradient, and it is zero throughout.

    Args:
        array: A gradient as a NumPy array, or `None`.
        noise: The largest absolute value that counts as zero.
    """
    if array is None:
        return False
    if noise:
        return bool(np.all(np.abs(array) <= noise))
    return not np.count_nonzero(array)


def bad_elements(array):
    """Returns the indices of the elements that are NaN or Inf.

    Args:
        array: A NumPy array, or `None`.

    Returns:
        An integer array `[count, rank]`.
    """
    if array is None:
        return np.zeros((0, 0), int)
    return np.argwhere(~np.isfinite(array))
