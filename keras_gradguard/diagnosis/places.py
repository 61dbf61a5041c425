"""Where an op stands: its line, its layer, its loss."""

import numpy as np

from keras_gradguard.records.finding import Place
from keras_gradguard.source.declared import Declarations
from keras_gradguard.source.frames import library_calls, op_place

_PLUMBING = frozenset(("Identity", "ReadVariableOp"))
# What they return is their input.
_COPIES = frozenset(("Cast", "Identity", "Reshape"))
_BY_NAME = "the line was found by the name of the layer or op"


def inputs_of(op):
    """Returns what went into an op, as fields of a `Finding`.

    Args:
        op: An `Op`.
    """
    return {
        "input_dtypes": tuple(tensor.dtype for tensor in op.inputs),
        "input_ops": tuple(_maker(tensor).type for tensor in op.inputs),
        "calls": library_calls(op.frames),
    }


def _maker(tensor):
    while tensor.op.type in _COPIES and tensor.op.inputs:
        tensor = tensor.op.inputs[0]
    return tensor.op


class Places:
    """Where the ops of one step stand.

    Args:
        trace: The `Trace`.
        model: The model of the step, or `None` for a loss alone.
    """

    def __init__(self, trace, model=None):
        self.trace = trace
        self._graph = trace.graph
        self._model = model
        self.declarations = Declarations(model)
        self._batch = {tensor for _, tensor in trace.batch}

    def place(self, op, context=None):
        """Returns the user's line of an op, and notes on how it was found.

        Args:
            op: An `Op`.
            context: The `Context` that it runs in; by default the root's.
        """
        while True:
            found = op_place(op)
            if found.line is not None:
                return found, ()
            if context is None or context.parent is None:
                break
            op, context = context.call, context.parent
        if self._model is None:
            return Place(), ()
        found = self.declarations.place(op.layer, op)
        return (Place(), ()) if found is None else (found, (_BY_NAME,))

    def layer(self, op, context):
        """Returns the path of the layer that an op runs in, or `None`."""
        while op.layer is None and context.parent is not None:
            op, context = context.call, context.parent
        return op.layer

    def loss_on(self, path):
        """Returns the name of the loss that a path of `Value`s leads through.

        Of a loss that runs in a body the tensor counts in whatever call.
        """
        on_path = {value.tensor for value in path}
        names = [name for tensor, name in self.trace.named if tensor in on_path]
        return names[0] if names else None

    def path(self, targets, op):
        """Returns the op types from some tensors to an op, the op last."""
        found = self._graph.ancestors(targets)
        if op not in found:
            return (op.type,)
        types = []
        while op is not None:
            types.append(op.type)
            op = found[op]
        kept = [t for t in types[1:] if t not in _PLUMBING]
        return tuple(reversed([types[0], *kept]))

    def is_of_batch(self, op):
        """Returns whether an op was computed from the batch."""
        ops = [op, *self._graph.ancestors(op.inputs)]
        return any(t in self._batch for one in ops for t in one.inputs)

    def loss_of(self, op):
        """Returns the name of the one loss that an op leads to, or `None`."""
        names = {
            call.name
            for call in self.trace.losses
            if call.value is not None
            and op in self._graph.ancestors([call.value])
        }
        return names.pop() if len(names) == 1 else None

    def loss_place(self, op):
        """Returns the line that gives `compile` the loss an op runs in.

        Args:
            op: An `Op`.

        Returns:
            A `Place`, empty where it is not known.
        """
        calls = [
            call
            for call in self.trace.losses
            if call.value is not None
            and op in self._graph.ancestors([call.value])
        ]
        known = getattr(calls[0].native, "loss", None) if calls else None
        if len(calls) != 1 or known is None:
            return Place()
        return self.declarations.loss(known) or Place()

    def largest_loss(self, op):
        """Returns the largest value of the losses that an op leads to."""
        values = [c.value for c in self.trace.losses if c.value is not None]
        values += [t for call in self.trace.targets for t in call.targets]
        led = [v for v in values if op in self._graph.ancestors([v])]
        arrays = [value.array() for value in led[:1]]
        sizes = [np.max(np.abs(a)) for a in arrays if a is not None]
        return float(max(sizes, default=0.0))

    def is_in_loss(self, op):
        """Returns whether an op ran inside no layer but the model itself."""
        return op.layer is None or op.layer == getattr(
            self._model, "name", None
        )
