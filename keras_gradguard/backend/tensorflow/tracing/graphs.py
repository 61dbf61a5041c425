"""Function graphs and eager ops as `graph.ops` has them."""

import collections
import dataclasses
import functools

import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.batches import tensors_of
from keras_gradguard.backend.tensorflow.internals.graphs import (
    bodies_of,
    custom_gradient_name,
    handles_of,
)
from keras_gradguard.backend.tensorflow.tracing.gradients import (
    RecordedOracle,
    TracedOracle,
)
from keras_gradguard.graph.flow import flows_to
from keras_gradguard.graph.ops import Graph, Op, Tensor
from keras_gradguard.graph.trace import LossCall, ReadOut, TapeCall, Trace
from keras_gradguard.model.losses import with_logits


class Family:
    """The graphs of one step: the outer one, and the bodies of its ops.

    Args:
        layers: See `Seen.layers`.
        functions: What keeps the graphs of functions alive.
    """

    def __init__(self, layers=(), functions=None):
        self._graphs = {}
        self._functions = functions
        self.oracle = TracedOracle()
        self.intervals = collections.defaultdict(list)
        for key, *interval in layers:
            self.intervals[key].append(interval)

    def graph(self, native):
        """Returns the `Graph` of a function graph, always the same one."""
        if id(native) not in self._graphs:
            self._graphs[id(native)] = TracedGraph(native, self)
        return self._graphs[id(native)]

    def tensor(self, native):
        """Returns the `Tensor` of one of a graph, `None` for all else."""
        if not isinstance(native, tf.Tensor) or hasattr(native, "numpy"):
            return None
        op = self.graph(native.graph).op(native.op)
        return op.outputs[native.value_index]


def traced_graph(native):
    """Returns the `Graph` of a function graph."""
    return Family().graph(native)


def is_connected(value, tensors, tape=None):
    """Returns whether a gradient leads from a value to one of some tensors.

    Args:
        value: What a loss has returned.
        tensors: The tensors.
        tape: The gradient tape that has watched them, if they are eager.
    """
    if not isinstance(value, tf.Tensor):
        return False
    if tape is not None:
        gradients = tape.gradient(value, tensors)
        return any(gradient is not None for gradient in gradients)
    if any(tensor.graph is not value.graph for tensor in tensors):
        return True
    graph = traced_graph(value.graph)
    return flows_to(graph.tensor(value), [graph.tensor(t) for t in tensors])


class TracedGraph(Graph):
    """A function graph; each op is adapted once, when it is asked for.

    Args:
        native: The `FuncGraph`.
        family: The `Family` of its step.
    """

    def __init__(self, native, family):
        self.native = native
        self.family = family
        self.oracle = family.oracle
        self._made = {}

    def op(self, native):
        """Returns the `Op` of a `tf.Operation` of this graph."""
        name = native.name
        if name not in self._made:
            self._made[name] = _TracedOp(self, native, name)
        return self._made[name]

    @functools.cached_property
    def ops(self):
        """All ops, in order."""
        return [self.op(op) for op in self.native.get_operations()]

    @functools.cached_property
    def numbers(self):
        """The number of each op, by its name."""
        operations = self.native.get_operations()
        return {op.name: number for number, op in enumerate(operations)}

    @functools.cached_property
    def inputs(self):
        """See `Graph`."""
        return [self.tensor(tensor) for tensor in self.native.inputs]

    @functools.cached_property
    def outputs(self):
        """See `Graph`."""
        return [self.tensor(tensor) for tensor in self.native.outputs]

    @functools.cached_property
    def _captured(self):
        found = collections.defaultdict(list)
        for outer, inner in self.native.captures:
            found[id(outer)].append(inner)
        return found

    def tensor(self, native):
        """See `Graph`."""
        return self.family.tensor(native)

    def standing_for(self, variable):
        """See `Graph`."""
        return [
            self.tensor(inner)
            for handle in handles_of(variable)
            for inner in self._captured[id(handle)]
        ]


class _TracedOp(Op):
    """An op of a function graph; what is not asked for is not looked up."""

    is_taped = True

    def __init__(self, graph, native, name):
        self.graph = graph
        self.native = native
        self.name = name
        self.type = native.type

    @functools.cached_property
    def number(self):
        """See `Op`."""
        return self.graph.numbers[self.name]

    @functools.cached_property
    def inputs(self):
        """See `Op`."""
        made = self.graph.op
        return tuple(
            made(tensor.op).outputs[tensor.value_index]
            for tensor in self.native.inputs
        )

    @functools.cached_property
    def outputs(self):
        """See `Op`."""
        return tuple(
            _TracedTensor(self, number, tensor.dtype.name, native=tensor)
            for number, tensor in enumerate(self.native.outputs)
        )

    @functools.cached_property
    def has_own_gradient(self):
        """See `Op`."""
        return custom_gradient_name(self.native) is not None

    @functools.cached_property
    def frames(self):
        """See `Op`; AutoGraph's code is mapped back by TensorFlow."""
        stack = self.native.traceback or ()
        return [(frame.filename, frame.lineno, frame.name) for frame in stack]

    @functools.cached_property
    def bodies(self):
        """See `Op`."""
        found = bodies_of(self.native)
        if found is None:
            return None
        kind, graphs = found
        return kind, [self.graph.family.graph(graph) for graph in graphs]

    @functools.cached_property
    def layer(self):
        """See `Op`."""
        found = None
        intervals = self.graph.family.intervals
        for first, last, path in intervals.get(id(self.graph.native), ()):
            if first <= self.number < last:
                found = path
        return found


class _TracedTensor(Tensor):
    """A tensor of a function graph."""

    @property
    def shape(self):
        """See `Tensor`."""
        shape = self.native.shape
        return None if shape.rank is None else tuple(shape.as_list())

    def consumers(self):
        """See `Tensor`."""
        graph = self.op.graph
        return [graph.op(op) for op in self.native.consumers()]


class _RecordedOp(Op):
    """An op that ran; a function's graph may be known only later."""

    @property
    def bodies(self):
        """See `Op`."""
        body = self.native.body if self.native is not None else None
        if body is None or len(body.inputs) != len(self.inputs):
            return None
        if len(body.outputs) < len(self.outputs):
            return None
        return "call", [self.graph.family.graph(body)]


class RecordedGraph(Graph):
    """The ops of a step that ran eagerly, with their values."""

    kind_of_op = _RecordedOp

    def __init__(self):
        super().__init__(RecordedOracle())
        self._known = {}
        self.family = Family()

    def add_op(self, ran, is_taped, frames):
        """Takes in one op that has just run.

        Args:
            ran: The `Ran`.
            is_taped: Whether a tape was recording.
            frames: `(file, line, function)`s, the outermost first.

        Returns:
            The `Op`.
        """
        inputs = [self.known(tensor) for tensor in ran.inputs]
        op = self.add(
            ran.type,
            inputs,
            [_described(tensor) for tensor in ran.outputs],
            is_taped=is_taped,
            has_own_gradient=ran.backward is not None,
            frames=frames,
            native=ran,
        )
        # A custom gradient gives out what ops inside of it have made: it
        # comes after them, and stands for them from then on.
        for tensor in op.outputs:
            tensor.inside = self._known.get(id(tensor.native))
            if tensor.inside is not None:
                tensor.inside.consumers().append(op)
            self._known[id(tensor.native)] = tensor
        return op

    def tensor(self, native):
        """See `Graph`."""
        return self._known.get(id(native))

    def known(self, native):
        """Returns the `Tensor` of a native one, new if it is unknown."""
        found = self._known.get(id(native))
        if found is None:
            found = self.given(*_described(native))
            self._known[id(native)] = found
        return found

    def standing_for(self, variable):
        """See `Graph`."""
        is_tensor = isinstance(variable, tf.Tensor)
        natives = [variable] if is_tensor else handles_of(variable)
        return [t for t in map(self.tensor, natives) if t is not None]


def _described(tensor):
    shape = tensor.shape
    shape = None if shape.rank is None else tuple(shape.as_list())
    return tensor.dtype.name, shape, tensor


def is_of_graph(tensor, graph):
    """Returns whether a value is a tensor of a function graph."""
    is_symbolic = isinstance(tensor, tf.Tensor) and not _is_eager(tensor)
    return is_symbolic and tensor.graph is graph


def _is_eager(tensor):
    return hasattr(tensor, "numpy")


def trace_of_graph(seen, graph=None):
    """Returns what was seen of a step that was traced, as a `Trace`.

    Args:
        seen: The `Seen`.
        graph: The `FuncGraph` that alone counts; by default all that was
            seen, and that of the step is the outermost.
    """

    def is_here(tensor):
        return graph is None or is_of_graph(tensor, graph)

    family = Family(seen.layers, seen.functions)
    root = seen.graph if graph is None else graph
    kept = dataclasses.replace(
        seen,
        targets=[c for c in seen.targets if all(map(is_here, c.targets))],
        losses=[c for c in seen.losses if is_here(c.value)],
        outputs=[t for t in seen.outputs if is_here(t)],
    )
    return _as_trace(kept, family.graph(root), family.tensor, root)


def trace_of_ops(seen, graph, here):
    """Returns what was seen of eager ops, as a `Trace`.

    Args:
        seen: The `Seen`.
        graph: The `RecordedGraph`.
        here: What stands for it in `seen`.
    """
    graph.family = Family(seen.layers, seen.functions)
    for key, first, last, path in seen.layers:
        if key == id(here):
            for op in graph.ops[first:last]:
                op.layer = path
    seen = dataclasses.replace(
        seen,
        targets=[call for call in seen.targets if call.targets],
        outputs=with_logits(seen.outputs),
    )
    return _as_trace(seen, graph, graph.tensor, here)


def _as_trace(seen, graph, tensor, here):
    def tensors(natives):
        found = map(tensor, natives)
        return [one for one in found if one is not None]

    targets = []
    for call in seen.targets:
        seeds = call.seeds or [None] * len(call.targets)
        pairs = zip(map(tensor, call.targets), seeds, strict=False)
        pairs = [(target, seed) for target, seed in pairs if target is not None]
        if call.targets and not pairs:
            continue
        targets.append(
            TapeCall(
                tuple(target for target, _ in pairs),
                tuple(call.sources),
                call.caller,
                _taped(call, here),
                tuple(seed for _, seed in pairs),
            )
        )
    losses = [
        LossCall(
            call.name,
            tensor(call.value),
            tensor(call.y_pred),
            call.function,
            call.loss.name,
            call.is_inner,
            call,
        )
        for call in seen.losses
    ]
    named = [(call.value, call.name) for call in losses]
    named += [
        (tensor(native), seen.names.get(id(native)))
        for native in tensors_of(seen.extra_losses)
    ]
    return Trace(
        graph,
        targets=targets,
        losses=losses,
        terms=[
            dataclasses.replace(term, values=tuple(tensors(term.values)))
            for term in seen.terms
        ],
        named=[pair for pair in named if pair[0] is not None],
        batch=[(None, one) for one in tensors(seen.batch)],
        outputs=tensors(seen.outputs),
        called=seen.called,
        returned=lambda: [
            (layer, tensors(tensors_of(value)))
            for layer, value in seen.returned
        ],
        read=[
            ReadOut(tensor(read.tensor), read.cause, read.place)
            for read in seen.read
            if tensor(read.tensor) is not None
        ],
        error=seen.error,
    )


def _taped(call, here):
    """The numbers of the ops of one graph that a tape has recorded."""
    if not call.recorded:
        return None
    return frozenset(
        number
        for graph, first, last in call.recorded
        if graph is here
        for number in range(first, last or first)
    )
