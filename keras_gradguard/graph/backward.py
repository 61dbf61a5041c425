"""A recorded step taken back, op by op, to see each gradient.

The tape itself does not tell which op a gradient came from. Here each op's
own gradient function is called with the values of the recorded step, in the
reverse order, as the tape does. A gradient is whatever the backend makes of
it; the oracle of the graph turns it into an array.
"""

import collections
import dataclasses

from keras_gradguard.graph.ops import Op


@dataclasses.dataclass(eq=False)
class Pullback:
    """The gradient of one op, from its outputs to its inputs.

    Args:
        op: The `Op`.
        incoming: The gradient of each output, `None` where there is none.
        outgoing: The gradient of each input, `None` where there is none.
    """

    op: Op
    incoming: tuple
    outgoing: tuple


class Gradients:
    """The gradients of a recorded tape call, as far as they are known.

    Args:
        graph: The `Graph` of the recorded step.
        call: The `TapeCall` to take back.
        see: Is called with each `Pullback`, the one nearest to the loss
            first; its gradients are let go after that.
        compiled: Whether each op's gradient is computed as the compiler of
            the backend does it.
        finite: Whether small numbers go on in place of what is not finite.
    """

    def __init__(self, graph, call, see, compiled=False, finite=False):
        self._graph = graph
        self._oracle = graph.oracle
        self._see = see
        self._compiled = compiled
        self._is_finite = finite
        self._known = collections.defaultdict(list)
        seeds = call.seeds or [None] * len(call.targets)
        for target, seed in zip(call.targets, seeds, strict=False):
            seed = self._oracle.seed(target) if seed is None else seed
            self._known[target].append(seed)
        last = max((t.op.number for t in call.targets), default=-1)
        for op in reversed(graph.ops[: last + 1]):
            self._pull(op)

    def of(self, variable):
        """Returns the gradient of a variable, or of a prediction.

        Args:
            variable: What `Graph.standing_for` knows.

        Returns:
            A gradient, or `None`.
        """
        tensors = self._graph.standing_for(variable)
        found = [g for t in tensors for g in self._known.get(t, ())]
        return self._summed(found)

    def array(self, variable):
        """Returns the gradient as an array, see `of`; its rows if it is few."""
        return self._oracle.array(self.of(variable))

    def _summed(self, gradients):
        if len(gradients) < 2:
            return gradients[0] if gradients else None
        return self._oracle.total(gradients)

    def _pull(self, op):
        made = [tensor in self._known for tensor in op.outputs]
        if not any(made):
            return
        incoming = [
            self._summed(self._known.pop(tensor)) if is_made else None
            for tensor, is_made in zip(op.outputs, made, strict=True)
        ]
        if not op.is_taped:
            return
        outgoing = self._oracle.pull(op, incoming, self._compiled)
        if outgoing is None:
            return
        for tensor, gradient in zip(op.inputs, outgoing, strict=False):
            if gradient is not None and tensor.carries_gradient:
                if self._is_finite:
                    gradient = self._oracle.with_finite(gradient)
                self._known[tensor].append(gradient)
        self._see(Pullback(op, tuple(incoming), tuple(outgoing)))
