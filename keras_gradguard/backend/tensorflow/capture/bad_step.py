"""The first bad step of a training, marked in the graph or left out."""

import dataclasses

import tensorflow as tf

from keras_gradguard.backend.tensorflow.capture.snapshot import Snapshot
from keras_gradguard.backend.tensorflow.internals.graphs import (
    graph_here,
    guard_variables,
    rarely,
)
from keras_gradguard.backend.tensorflow.internals.variables import read
from keras_gradguard.records.kinds import LARGEST_ROOT

NEVER = -1
_NONE = [NEVER, 0, 0, 0]


@dataclasses.dataclass(frozen=True)
class KeptStep:
    """What was kept of a bad step.

    Args:
        step: Number of updates before it.
        measured: `(variables, statistics)` of each optimizer.
        weights: `(variable, value)` pairs from before it, if they were kept.
        batch: Its batch as `train_step` gets it, `None` if it was not kept.
        trace: The `Trace` of its ops with their values, if it was recorded.
        note: Why the line is not known where there is neither.
        is_suspected: Whether it is bad by an entry of its logs alone, which
            may be a metric that nothing is trained by, or by the square of a
            gradient, which not every optimizer computes.
        spoiled: Variables that its update made NaN or Inf, although the
            gradient was finite.
    """

    step: int
    measured: list
    weights: tuple = ()
    batch: object = None
    trace: object = None
    note: str | None = None
    is_suspected: bool = False
    spoiled: tuple = ()


class FirstBadStep:
    """Keeps the number of the first bad step until it is set anew."""

    def __init__(self):
        with guard_variables():
            # Updates before the first bad step, how many bad steps, and
            # whether the last and the first one are suspected, see `KeptStep`.
            self._state = tf.Variable(_NONE, False, dtype=tf.int64)

    def mark(self, is_bad, now, is_suspected=False):
        """Adds the ops that note one step.

        Args:
            is_bad: Boolean scalar tensor.
            now: Int64 scalar tensor, the updates made before this step.
            is_suspected: See `KeptStep`, a Boolean or such a tensor.
        """
        first, count, last, begun = tf.unstack(self._state)
        is_first = is_bad & tf.equal(first, NEVER)
        is_suspected = tf.cast(is_suspected, tf.int64)
        known = [
            tf.where(is_first, now, first),
            count + tf.cast(is_bad, tf.int64),
            tf.where(is_bad, is_suspected, last),
            tf.where(is_first, is_suspected, begun),
        ]
        self._state.assign(tf.stack(known))

    def is_set(self):
        """Returns a boolean scalar tensor: was there a bad step?"""
        return self._state[0] != NEVER

    def read(self):
        """Returns `(updates before the first bad step or -1, number)`."""
        return self._state.numpy()[:2]

    def is_suspected(self):
        """Returns whether the last bad step is suspected, see `KeptStep`."""
        return bool(self._state.numpy()[2])

    def began_suspected(self):
        """Returns whether the first bad step is suspected, see `KeptStep`."""
        return bool(self._state.numpy()[3])

    def clear(self):
        """Lets the next bad step be seen as the first one."""
        self._state.assign([NEVER, self.number(), 0, 0])

    def number(self):
        """Returns how many bad steps there were, an int."""
        return int(self._state.numpy()[1])

    def reset(self):
        """Makes all as it was before the first step."""
        self._state.assign(_NONE)


class BadStep:
    """Keeps the number, the weights and the batch of the first bad step.

    Args:
        model: The Keras model.
        is_xla: Whether its training step is compiled by XLA.

    Attributes:
        first_bad: The `FirstBadStep`.
    """

    def __init__(self, model, is_xla):
        self.first_bad = FirstBadStep()
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
            self._begun = read(optimizer.iterations)
        self._snapshot.begin()

    def keeper(self, optimizer):
        """Returns what adds the ops that keep this step.

        Args:
            optimizer: The optimizer that is to make an update.

        Returns:
            A function of whether the step is only suspected, see `KeptStep`.
        """
        # Read out here: a branch that reads it would hold up the counting,
        # which goes on in Keras even as the data fails. And by its second
        # update a step has been counted already.
        here = graph_here()
        if self._now is None or self._now[0] is not here:
            self._now = here, read(optimizer.iterations)
        now = self._now[1]

        def keep(is_suspected):
            self._mark(now, is_suspected)
            self._snapshot.store(self._batch)

        return keep

    def mark_late(self, is_bad, is_suspected=False):
        """Latches a step of which no more than the loss is known to be bad.

        Args:
            is_bad: Boolean scalar tensor.
            is_suspected: See `KeptStep`, a Boolean or such a tensor.

        Returns:
            Scalar float32 tensor, 1 if it is bad.
        """
        optimizer = getattr(self._model, "optimizer", None)
        now = 0 if optimizer is None else optimizer.iterations
        if self._begun is not None:
            now = self._begun
        elif self._now is not None and self._now[0] is graph_here():
            now = self._now[1]

        def mark():
            self._mark(now, is_suspected)
            return tf.constant(1.0)

        return rarely(is_bad, mark, 0.0)

    def _mark(self, now, is_suspected=False):
        now = tf.cast(now, tf.int64)
        self.first_bad.mark(tf.constant(True), now, is_suspected)

    def clear(self, captures):
        """Lets the next bad step be seen as the first one.

        Args:
            captures: The `OptimizerCapture`s.
        """
        self.first_bad.clear()
        # In the meantime another one may have been kept.
        self.forget()
        self.take(captures)
        self.forget()

    def reset(self):
        """Makes all as it was before the first step."""
        self.first_bad.reset()
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
            `(weights, batch, measured, is_suspected, spoiled)`: see
            `Snapshot.take`; `(variables, statistics)` of each optimizer; and
            see `KeptStep`. The same for every monitor.
        """
        if self._taken is None:
            measured = [(c.variables, c.take_bad()) for c in captures]
            spoiled = [v for c in captures for v in c.finite.take()]
            if self.first_bad.began_suspected() and has_large(measured):
                spoiled = [v for c in captures for v in c.finite.spoiled()]
            is_suspected = self.first_bad.is_suspected()
            found = *self._snapshot.take(), measured
            self._taken = *found, is_suspected, tuple(spoiled)
        return self._taken


def has_large(measured):
    """Returns whether a gradient has a square that float32 cannot hold.

    Args:
        measured: `(variables, statistics)` of each optimizer.
    """
    return any((found[:, 1] > LARGEST_ROOT).any() for _, found in measured)


class LeftOutUpdates:
    """Leaves out what a bad step would do to a model.

    An update that makes weights or the state of the optimizer NaN or Inf is
    undone, see `FiniteUpdate`.

    Args:
        model: The Keras model.
        what: `None` to leave out nothing, `"bad"` for the updates of a bad
            step, `"after"` for those of all steps that follow it as well.
        first_bad: The `FirstBadStep` of the first bad step.
    """

    def __init__(self, model, what, first_bad):
        self._model = model
        self.what = what
        self._first_bad = first_bad
        self._before = []
        if what is not None:
            with guard_variables():
                self._is_on = tf.Variable(True, trainable=False)

    def switch_off(self):
        """Leaves out nothing from now on."""
        if self.what is not None:
            self._is_on.assign(False)

    def begin(self):
        """Reads what a step changes by itself: call it before the step."""
        if self.what is not None:
            kept = [
                *self._model.non_trainable_weights,
                *self._model.metrics_variables,
            ]
            self._before = [(v, tf.identity(v)) for v in kept]

    def held(self, totals):
        """Returns whether an update is left out: a boolean scalar tensor.

        Args:
            totals: The `StepTotals` of the step.

        Returns:
            `None` if none ever is.
        """
        if self.what is None:
            return None
        return self._reached(totals.is_bad())

    def _reached(self, is_bad):
        if self.what == "after":
            is_bad |= self._first_bad.is_set()
        return is_bad & self._is_on.value()

    def apply(self, capture, held, apply):
        """Makes an update, or leaves it out.

        Args:
            capture: The `OptimizerCapture` of the update.
            held: What `held` returned, a tensor.
            apply: Makes it.

        Returns:
            Scalar float32 tensor, 1 if the update was undone.
        """
        if not capture.optimizer.built:
            capture.optimizer.build(capture.variables)

        def make():
            return capture.finite.make(self._is_on.value(), apply)

        return tf.cond(held, lambda: tf.constant(0.0), make)

    def restored(self, logs, is_bad):
        """Leaves statistics and metrics as they were before a bad step.

        Args:
            logs: The logs of the step, a dict.
            is_bad: Boolean scalar tensor.

        Returns:
            The logs of the step; where it is left out, with the metrics as
            they are now.
        """
        if self.what is None:
            return logs
        is_left_out = self._reached(is_bad)

        def restore():
            for variable, value in self._before:
                variable.assign(value)
            return tf.constant(0)

        tf.cond(is_left_out, restore, lambda: tf.constant(0))
        now = self._model.get_metrics_result()
        if now.keys() != logs.keys():
            return logs
        return {
            name: tf.where(is_left_out, now[name], value)
            if _are_alike(now[name], value)
            else value
            for name, value in logs.items()
        }


def _are_alike(one, other):
    """Returns whether both are tensors of one type and known shape."""
    return (
        tf.is_tensor(one)
        and tf.is_tensor(other)
        and one.dtype == other.dtype
        and one.shape.is_fully_defined()
        and one.shape == other.shape
    )


def made_once(barrier, apply, make):
    """Makes an update, or leaves it out; a fault of the guard lets it be made.

    Args:
        barrier: The `FaultBarrier` of the guard.
        apply: Calls what it is given, or leaves it out.
        make: Makes the update.

    Returns:
        What `make` returns, if it was made for a fault of the guard.
    """
    update = _Update(make)
    try:
        return apply(update)
    except Exception as error:
        if error is update.error:
            raise
        with barrier.guarded():
            raise
    # What stood in a branch that was not finished is in no graph.
    is_made = update.is_made and tf.executing_eagerly()
    return None if is_made else make()


class _Update:
    """An update, and how far it has come.

    Args:
        make: Makes it.
    """

    def __init__(self, make):
        self._make = make
        self.error, self.is_made = None, False

    def __call__(self):
        try:
            self._make()
        except Exception as error:
            self.error = error
            raise
        self.is_made = True
