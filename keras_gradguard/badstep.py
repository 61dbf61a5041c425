"""Step 2 of 5: the first bad step, kept in the graph."""

import tensorflow as tf

from keras_gradguard.diagnosis import internals, variable_internals
from keras_gradguard.latch import Latch
from keras_gradguard.snapshot import Snapshot


class BadStep:
    """Keeps the number, the weights and the batch of the first bad step.

    Args:
        model: The Keras model.
        is_xla: Whether its training step is compiled by XLA.

    Attributes:
        latch: The `Latch`.
    """

    def __init__(self, model, is_xla):
        self.latch = Latch()
        self._model = model
        self._snapshot = Snapshot(model, is_xla, model.steps_per_execution > 1)
        self._batch, self._now, self._taken = [], None, None
        self._begun = None

    def begin(self, batch, is_own=False):
        """Reads what a step changes by itself: call it before the step.

        Args:
            batch: The tensors of its batch, flat.
            is_own: Whether the step is the user's own, and may thus make its
                updates in some other graph.
        """
        self._batch, self._now, self._begun = batch, None, None
        optimizer = getattr(self._model, "optimizer", None)
        if is_own and optimizer is not None:
            self._begun = variable_internals.read(optimizer.iterations)
        self._snapshot.begin()

    def keeper(self, optimizer):
        """Returns what adds the ops that keep this step.

        Args:
            optimizer: The optimizer that is to make an update.
        """
        # Read out here: a branch that reads it would hold up the counting,
        # which goes on in Keras even as the data fails. And by its second
        # update a step has been counted already.
        here = internals.graph_here()
        if self._now is None or self._now[0] is not here:
            self._now = here, variable_internals.read(optimizer.iterations)
        now = self._now[1]

        def keep():
            self._mark(now)
            self._snapshot.keep(self._batch)

        return keep

    def mark_late(self, is_bad):
        """Latches a step of which no more than the loss is known to be bad.

        Args:
            is_bad: Boolean scalar tensor.

        Returns:
            Scalar float32 tensor, 1 if it is bad.
        """
        optimizer = getattr(self._model, "optimizer", None)
        now = 0 if optimizer is None else optimizer.iterations
        if self._begun is not None:
            now = self._begun
        elif self._now is not None and self._now[0] is internals.graph_here():
            now = self._now[1]

        def mark():
            self._mark(now)
            return tf.constant(1.0)

        return internals.rarely(is_bad, mark, 0.0)

    def _mark(self, now):
        self.latch.mark(tf.constant(True), tf.cast(now, tf.int64))

    def clear(self, captures):
        """Lets the next bad step be seen as the first one.

        Args:
            captures: The `OptimizerCapture`s.
        """
        self.latch.clear()
        # In the meantime another one may have been kept.
        self.forget()
        self.take(captures)
        self.forget()

    def reset(self):
        """Makes all as it was before the first step."""
        self.latch.clear()
        self.forget()
        self._snapshot.reset()

    def forget(self):
        """Lets `take` read anew: another call of the train function begins."""
        self._taken = None

    def take(self, captures):
        """Returns what was kept of the bad step of the last call.

        Args:
            captures: The `OptimizerCapture`s.

        Returns:
            `(weights, batch, measured)`: see `Snapshot.take`, and
            `(variables, statistics)` of each optimizer; the same for every
            watcher.
        """
        if self._taken is None:
            measured = [(c.variables, c.take_bad()) for c in captures]
            self._taken = (*self._snapshot.take(), measured)
        return self._taken
