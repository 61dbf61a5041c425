"""Step 4: a recorded eager step in the form of a graph, for the same walk.

`Flow` and `Location` ask an op for its inputs, its line and its bodies, as
they do with `tf.Operation`; whether a gradient passes, each op that has run
tells by its own gradient function, on its own values.
"""

import collections

import tensorflow as tf

from keras_gradguard.diagnosis import eager_internals
from keras_gradguard.diagnosis.backward import pulled
from keras_gradguard.diagnosis.edges import carries_gradient


class RanTensor:
    """A tensor of a recorded step.

    Args:
        op: The `RanNode` that made it.
        value_index: Its place among the outputs.
        tensor: The eager tensor.
    """

    def __init__(self, op, value_index, tensor):
        self.op = op
        self.graph = op.graph
        self.value_index = value_index
        self.name = f"{op.name}:{value_index}"
        self.dtype = tensor.dtype
        self.shape = tensor.shape
        self.users = []

    def consumers(self):
        """Returns the ops that this tensor went into."""
        return self.users


class RanNode:
    """An op of a recorded step, or what stands for a value from outside.

    Args:
        graph: The `RanGraph`.
        name: A unique name.
        outputs: The tensors that came out.
        inputs: `RanTensor`s that went in.
        ran: The `RanOp`, `None` for a value from outside.
    """

    def __init__(self, graph, name, outputs, inputs=(), ran=None):
        self.graph = graph
        self.name = name
        self.type = "Placeholder" if ran is None else ran.type
        self.inputs = list(inputs)
        self.traceback = () if ran is None else ran.traceback
        self.outputs = [RanTensor(self, n, t) for n, t in enumerate(outputs)]
        self._ran = ran
        for tensor in self.inputs:
            tensor.users.append(self)

    def get_attr(self, name):
        """Returns the name of an op's own gradient; it has no other one."""
        if name == "_gradient_op_type" and self._has_own_gradient():
            return self.type.encode()
        raise ValueError(f"{self.type} has no attribute {name}")

    def _has_own_gradient(self):
        return self._ran is not None and self._ran.backward is not None

    def bodies(self):
        """Returns the graph of a `tf.function`, see `internals.bodies`."""
        body = None if self._ran is None else self._ran.body
        if body is None or len(body.inputs) != len(self.inputs):
            return None
        if len(body.outputs) < len(self.outputs):
            return None
        return "call", [body]

    def passes(self, position):
        """Returns which inputs get a gradient, see `edges.probe`."""
        closed = (False,) * len(self.inputs)
        if not carries_gradient(self.outputs[position].dtype):
            return closed, None
        if self._ran.type.startswith("__"):
            # The body of a function that is not at hand.
            return (True,) * len(self.inputs), None
        sides = (self.inputs, self.outputs)
        key = (self.type, position, *(tuple(t.dtype for t in s) for s in sides))
        if self._has_own_gradient():
            key = (self.name, position)
        if key not in self.graph.answers:
            self.graph.answers[key] = self._ask(position)
        return self.graph.answers[key]

    def _ask(self, position):
        incoming = [
            tf.ones_like(tensor) if number == position else None
            for number, tensor in enumerate(self._ran.outputs)
        ]
        try:
            with eager_internals.no_tape():
                outgoing = list(pulled(self._ran, incoming))
        except LookupError as error:
            return (False,) * len(self.inputs), str(error)
        except Exception:  # noqa: BLE001
            # Not a cut that can be proved, so none that may be reported.
            return (True,) * len(self.inputs), None
        outgoing += [None] * (len(self.inputs) - len(outgoing))
        return tuple(g is not None for g in outgoing[: len(self.inputs)]), None


class RanGraph:
    """The ops of a recording as a graph.

    Args:
        recording: The `Recording`; what it records later is not seen.

    Attributes:
        captures: `(outer, inner)` pairs of the values from outside.
        answers: What ops have told of their gradients.
        num_ops: How many ops the recording had.
    """

    outer_graph = None

    def __init__(self, recording):
        self.answers = {}
        self._known = {}
        self._outside = collections.OrderedDict()
        self._nodes = []
        self.num_ops = len(recording.ops)
        for ran in recording.ops:
            inputs = [self._tensor(t) for t in ran.inputs]
            name = f"{ran.type}_{ran.number}"
            node = RanNode(self, name, ran.outputs, inputs, ran)
            self._nodes.append(node)
            for tensor, own in zip(ran.outputs, node.outputs, strict=True):
                self._known[id(tensor)] = own
        self.captures = list(self._outside.values())

    def get_operations(self):
        """Returns all ops in order, those for outer values last."""
        return [*self._nodes, *(inner.op for _, inner in self.captures)]

    def tensor(self, tensor):
        """Returns the `RanTensor` of an eager tensor, `None` if unknown."""
        return self._known.get(id(tensor))

    def _tensor(self, tensor):
        if id(tensor) not in self._known:
            name = f"outside_{len(self._outside)}"
            inner = RanNode(self, name, [tensor]).outputs[0]
            self._known[id(tensor)] = inner
            self._outside[id(tensor)] = (tensor, inner)
        return self._known[id(tensor)]
