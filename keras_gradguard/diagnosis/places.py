"""Step 4: where a recorded op stands: its line, its layer, its loss."""

import collections

import numpy as np

from keras_gradguard.records.finding import Place
from keras_gradguard.source.declared import Declarations
from keras_gradguard.source.frames import op_place

_PLUMBING = frozenset(("Identity", "ReadVariableOp"))
_BY_NAME = "the line was found by the name of the layer or op"


class Lineage:
    """The ways from the losses of a recorded step back to its ops.

    Args:
        recording: The `Recording`.
        model: The model that ran, or `None` for a loss alone.
    """

    def __init__(self, recording, model=None):
        self.recording = recording
        self._model = model
        self._declarations = Declarations(model)
        self._batch = {id(tensor) for tensor in recording.trace.batch}

    def ancestors(self, tensors):
        """Maps each op that some tensors were computed from to the next one.

        Args:
            tensors: Tensors of the step.

        Returns:
            A dict of `RanOp` to the `RanOp` that used it on the shortest
            way, `None` for those that made `tensors`.
        """
        queue = collections.deque((tensor, None) for tensor in tensors)
        found = {}
        while queue:
            tensor, later = queue.popleft()
            op = self.recording.maker(tensor)
            if op is not None and op not in found:
                found[op] = later
                queue.extend((source, op) for source in op.inputs)
        return found

    def path(self, targets, op):
        """Returns the op types from the loss to an op, the op last."""
        found = self.ancestors(targets)
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
        ops = [op, *self.ancestors(op.inputs)]
        return any(id(t) in self._batch for one in ops for t in one.inputs)

    def loss_of(self, op):
        """Returns the name of the one loss that an op leads to, or `None`."""
        names = {
            call.name
            for call in self.recording.trace.losses
            if op in self.ancestors([call.value])
        }
        return names.pop() if len(names) == 1 else None

    def largest_loss(self, op):
        """Returns the largest value of the losses that an op leads to."""
        trace = self.recording.trace
        values = [call.value for call in trace.losses]
        values += [t for call in trace.targets for t in call.targets]
        led = [v for v in values if op in self.ancestors([v])]
        return max((float(np.max(np.abs(v))) for v in led[:1]), default=0.0)

    def is_in_loss(self, op):
        """Returns whether an op ran inside no layer but the model itself."""
        layer = self.recording.layer_of(op)
        return layer is None or layer == getattr(self._model, "name", None)

    def place(self, op):
        """Returns the user's line of an op, and notes on how it was found."""
        found = op_place(op)
        if found.line is not None or self._model is None:
            return found, ()
        layer = self.recording.layer_of(op)
        found = self._declarations.place(layer, op)
        return (Place(), ()) if found is None else (found, (_BY_NAME,))
