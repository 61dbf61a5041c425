"""Step 4: take a recorded step back, op by op, and see each gradient.

The tape itself does not tell which op a gradient came from. Here each op's
own gradient function is called with the values of the recorded step, in the
reverse order, as the tape does.
"""

import collections
import dataclasses

import tensorflow as tf

from keras_gradguard.backend.tensorflow.tracing.gradients import pulled
from keras_gradguard.graph.ops import RanOp, carries_gradient


@dataclasses.dataclass(eq=False)
class Pullback:
    """The gradient of one op, from its outputs to its inputs.

    Args:
        op: The `RanOp`.
        incoming: The gradient of each output, `None` where there is none.
        outgoing: The gradient of each input, `None` where there is none.
    """

    op: RanOp
    incoming: tuple
    outgoing: tuple


class Gradients:
    """The gradients of a recorded tape call, as far as they are known.

    Args:
        recording: The `Recording`.
        call: The `TapeCall` to take back.
        see: Is called with each `Pullback`, the one nearest to the loss
            first; its tensors are let go after that.
        pull: Runs the gradient function of an op, see `pulled`.
    """

    def __init__(self, recording, call, see, pull=None):
        self._recording = recording
        self._see = see
        self._run = pull or pulled
        self._known = collections.defaultdict(list)
        self.faults = []
        seeds = call.seeds or [None] * len(call.targets)
        for target, seed in zip(call.targets, seeds, strict=False):
            seed = tf.ones_like(target) if seed is None else seed
            self._known[id(target)].append(seed)
        last = max((self._number(t) for t in call.targets), default=-1)
        for op in reversed(recording.ops[: last + 1]):
            self._pull(op)

    def of(self, tensor):
        """Returns the gradient of a tensor that no recorded op made.

        Args:
            tensor: A variable's handle or a tensor of the batch.

        Returns:
            A tensor, `tf.IndexedSlices`, or `None`.
        """
        return _summed(self._known.get(id(tensor), ()))

    def _number(self, tensor):
        op = self._recording.maker(tensor)
        return -1 if op is None else op.number

    def _pull(self, op):
        made = {
            id(t) for t in op.outputs if self._recording.maker(t) is op
        } & self._known.keys()
        if not made:
            return
        incoming = [
            _summed(self._known.pop(id(t))) if id(t) in made else None
            for t in op.outputs
        ]
        if not op.is_taped:
            return
        try:
            outgoing = self._run(op, incoming)
        except Exception as fault:  # noqa: BLE001
            self.faults.append((op, fault))
            return
        for tensor, gradient in zip(op.inputs, outgoing, strict=False):
            if gradient is not None and carries_gradient(tensor.dtype):
                self._known[id(tensor)].append(gradient)
        self._see(Pullback(op, tuple(incoming), tuple(outgoing)))


def _summed(gradients):
    """Adds up gradients of one tensor; rows stay rows."""
    if len(gradients) < 2:
        return gradients[0] if gradients else None
    if all(isinstance(g, tf.IndexedSlices) for g in gradients):
        return tf.IndexedSlices(
            tf.concat([g.values for g in gradients], 0),
            tf.concat([g.indices for g in gradients], 0),
            gradients[0].dense_shape,
        )
    return tf.add_n([tf.convert_to_tensor(g) for g in gradients])
