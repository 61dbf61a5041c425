"""Sums over the updates of a step and means over an epoch, in the graph."""

import math
import operator

import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.graphs import (
    graph_here,
    guard_variables,
)
from keras_gradguard.backend.tensorflow.internals.variables import numbers_in


class StepTotals:
    """Adds up what the updates of a step have measured.

    Plain tensors do where all of them sit in the graph of the step itself.
    A step of the user's own may have its updates in a function or a branch,
    out of which no tensor leads: then a variable takes them.
    """

    def __init__(self):
        self._graph, self._known = None, []
        self._is_shared = False
        with guard_variables():
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
        self._graph, self._known = graph_here(), []
        self._is_shared = is_shared
        if is_shared:
            self._room.assign([0.0] * 3)

    def add(self, square=None, is_bad=None):
        """Adds what one update has measured, or the loss.

        Args:
            square: Squared norm of its gradients, a scalar float32 tensor.
            is_bad: Scalar float32 tensor, 1 if something is not finite.
        """
        self._is_shared |= graph_here() is not self._graph
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


LOSS = "loss"


class ObjectProxy(float):
    """A number on its way to Keras, which is through with it at once.

    Keras asks TensorFlow of each entry of the logs whether it is a tensor.
    With a plain float that takes 8 microseconds in Python 3.11 (an abstract
    class is asked for its members); of this name TensorFlow knows that it is
    none, as `wrapt` calls its wrappers like that.
    """


class EpochTotals:
    """Sums up the norms of the steps, as Keras does with the loss.

    Each output more and each variable to be read costs a training of small
    steps some percent. So where one call is one step, its figures come along
    with the loss, as further elements of the same tensor, and are summed up
    in Python; else a variable sums them up in the graph.
    """

    def __init__(self):
        self._is_sent = self._has_norms = False
        self._sums = [0.0, 0.0, 0.0]
        self._num_bad = 0
        with guard_variables():
            # The sum of the norms, how many they are, and the bad steps.
            self._state = tf.Variable([0.0, 0.0, 0.0], trainable=False)

    @property
    def num_bad(self):
        """How many steps were bad since `begin`, an int."""
        return int(self._num_bad)

    @property
    def are_all_bad(self):
        """Whether there were steps since `begin`, and all of them bad."""
        _, count, bad = self._sums
        return bad > 0 and not count

    def begin(self):
        """Starts anew."""
        self._num_bad = 0
        self._sums = [0.0, 0.0, 0.0]
        self._state.assign(self._sums)

    def add(self, figures, logs=None):
        """Adds the ops that take in one step.

        Args:
            figures: What `figures` returned.
            logs: Dict of the step's logs, if they leave it as they are; the
                loss in it may be changed.
        """
        self._has_norms = tf.is_tensor(figures[1]) or figures[1] > 0
        loss = None if logs is None else logs.get(LOSS)
        self._is_sent = (
            tf.is_tensor(loss)
            and loss.dtype == tf.float32
            and loss.shape.rank == 0
        )
        if self._is_sent:
            logs[LOSS] = tf.stack([loss, *figures])
        else:
            self._state.assign_add(tf.stack(figures))

    def take(self, logs):
        """Takes in what one call of the train function has found.

        Args:
            logs: What it returned; the loss in it becomes itself again.

        Returns:
            `(mean, is_bad)`: the mean of the norms so far, NaN before the
            first one, `None` if a step has no gradients; and whether there
            was another bad step.
        """
        sums = self._sums
        if not self._is_sent:
            sums[:] = numbers_in(self._state).tolist()
        else:
            sent = logs[LOSS].numpy()
            if sent.ndim:
                # Keras makes a float of it anyway, a moment later.
                loss, *figures = sent.tolist()
                logs[LOSS] = ObjectProxy(loss)
                sums[:] = map(operator.add, sums, figures)
        total, count, bad = sums
        is_bad, self._num_bad = bad > self._num_bad, bad
        if not self._has_norms:
            return None, is_bad
        return ObjectProxy(total / count if count else math.nan), is_bad

    def strip(self, logs):
        """Takes the figures of a step out of its logs, and leaves it there.

        Args:
            logs: See `take`.
        """
        sent = logs.get(LOSS) if self._is_sent else None
        if tf.is_tensor(sent) and sent.shape.rank == 1:
            logs[LOSS] = sent[0]


def packed_totals(
    norm, is_bad, has_norm=1.0, is_left_out=False, is_scaled=False
):
    """Returns what `EpochTotals.add` takes of one step, three scalars.

    Args:
        norm: Scalar float32 tensor, the norm of all its gradients.
        is_bad: Scalar float32 tensor, 1 if it is bad.
        has_norm: 1 if it has made an update, else 0; a number or a tensor.
        is_left_out: Whether the norm of a bad step does not count.
        is_scaled: Whether a loss scale may be finding its level: a norm that
            is not finite then is not bad, and no norm of the step.
    """
    if not (tf.is_tensor(has_norm) or is_left_out or is_scaled):
        return (norm, 1.0, is_bad) if has_norm else (0.0, 0.0, is_bad)
    is_kept = tf.convert_to_tensor(has_norm) > 0
    if is_left_out:
        is_kept &= tf.equal(is_bad, 0.0)
    if is_scaled:
        is_kept &= tf.math.is_finite(norm) | (is_bad > 0)
    return tf.where(is_kept, norm, 0.0), tf.cast(is_kept, tf.float32), is_bad
