"""Step 2 of 5: what the updates of one step add up to, in the graph."""

import tensorflow as tf

from keras_gradguard.diagnosis import internals


class Carry:
    """Adds up what the updates of a step have measured.

    Plain tensors do where all of them sit in the graph of the step itself.
    A step of the user's own may have its updates in a function or a branch,
    out of which no tensor leads: then a variable takes them.
    """

    def __init__(self):
        self._graph, self._known = None, []
        self._is_shared = False
        with internals.room():
            # The squared norm, more than 0 if something is bad, and how many
            # updates.
            self._room = tf.Variable([0.0] * 3, trainable=False)

    def reset(self):
        """Makes all as it was before the first step."""
        self._room.assign([0.0] * 3)

    def begin(self, is_shared):
        """Begins a step.

        Args:
            is_shared: Whether its updates may sit in another graph.
        """
        self._graph, self._known = internals.graph_here(), []
        self._is_shared = is_shared
        if is_shared:
            self._room.assign([0.0] * 3)

    def add(self, square=None, is_bad=None):
        """Adds what one update has measured, or the loss.

        Args:
            square: Squared norm of its gradients, a scalar float32 tensor.
            is_bad: Scalar float32 tensor, 1 if something is not finite.
        """
        self._is_shared |= internals.graph_here() is not self._graph
        if self._is_shared:
            row = [0.0 if v is None else v for v in (square, is_bad)]
            self._room.assign_add(tf.stack([*row, float(square is not None)]))
        else:
            self._known.append((square, is_bad))

    def is_bad(self):
        """Returns a boolean scalar tensor: is something bad so far?"""
        bad = [b for _, b in self._known if b is not None]
        if self._is_shared:
            bad.append(self._room[1])
        return _sum(bad) > 0

    def watched(self):
        """Returns a scalar float32 tensor: not finite if something is bad."""
        return tf.where(self.is_bad(), float("nan"), 0.0)

    def total(self):
        """Returns what all updates of the step add up to.

        Returns:
            `(squared norm, is_bad, has_norm)`: float32 scalars; the second
            one 1 if something is bad, the third one 1 if an update was made.
            It is no tensor where that is known.
        """
        squares = [s for s, _ in self._known if s is not None]
        bad = [b for _, b in self._known if b is not None]
        has_norm = float(bool(squares))
        if self._is_shared:
            square, is_bad, count = tf.unstack(self._room.value())
            if not squares:
                has_norm = tf.minimum(count, 1.0)
            squares, bad = [*squares, square], [*bad, is_bad]
            # For a step that turns out to be shared only as it is traced.
            self._room.assign([0.0] * 3)
        if len(bad) == 1 and not self._is_shared:
            return _sum(squares), bad[0], has_norm
        return _sum(squares), tf.minimum(_sum(bad), 1.0), has_norm


def _sum(values):
    return tf.add_n(values) if values else tf.constant(0.0)
