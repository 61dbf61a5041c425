"""Hooks the optimizers that train a model in a custom loop.

Only `optimizer.apply` of each instance is replaced, while the block runs.
"""

import collections
import contextlib
import gc
import threading

import keras
import tensorflow as tf

from keras_gradguard.backend.tensorflow.capture.bad_step import (
    KeptStep,
    has_large,
)
from keras_gradguard.backend.tensorflow.capture.probe import LoopProbe
from keras_gradguard.backend.tensorflow.hook.optimizer import (
    OptimizerHook,
    SummedHook,
    Update,
)
from keras_gradguard.backend.tensorflow.hook.running import is_measured_here
from keras_gradguard.backend.tensorflow.hook.training import TrainingHook
from keras_gradguard.backend.tensorflow.internals.patch import replaced
from keras_gradguard.backend.tensorflow.tracing.evidence import StepEvidence
from keras_gradguard.backend.tensorflow.tracing.recorder import LiveRecorder
from keras_gradguard.backend.tensorflow.tracing.restore import is_examining
from keras_gradguard.errors import FINDINGS, LoopStopped
from keras_gradguard.model.optimizers import (
    applied_variables,
    optimizers_of,
    unknown_to,
    updating,
)
from keras_gradguard.records.text import counted


class FirstStep:
    """Follows updates until a step must be done.

    One update does for a loop with one optimizer; with several, a step is
    over once each variable has been trained, or an optimizer comes again.

    Args:
        model: The Keras model.
    """

    def __init__(self, model):
        self._model = model
        self._begin()
        self._is_running_out = False

    def _begin(self):
        self._trained, self._optimizers = set(), set()
        self._num_updates, self._num_known = 0, 0

    def begin_with_the_next(self):
        """Begins anew, with the step after the one that runs."""
        self._is_running_out = True

    def note_update(self, optimizer, variables):
        """Takes note of an update; returns whether the step is over.

        Args:
            optimizer: The optimizer that made it.
            variables: The model's variables among those it trains.
        """
        if self._is_running_out:
            self._is_running_out = False
            self._begin()
            return False
        self._num_updates += 1
        self._trained |= set(map(id, variables))
        is_again = id(optimizer) in self._optimizers
        self._optimizers.add(id(optimizer))
        return is_again or self._is_complete()

    def note_function(self):
        """Takes note that a compiled function has returned.

        Returns:
            Whether the step is over: all is trained, or the function has
            not been traced again.
        """
        is_traced = self._num_updates > self._num_known
        self._num_known = self._num_updates
        return self._is_complete() or (
            bool(self._num_updates) and not is_traced
        )

    def _is_complete(self):
        everything = set(map(id, self._model.trainable_variables))
        return everything <= self._trained


def live_optimizers(model):
    """Returns the optimizers that may train a model.

    Args:
        model: A Keras model. The optimizers that it holds, and all others
            that are alive, as a loop may hold its own in any variable.
    """
    found = {id(optimizer): optimizer for optimizer in optimizers_of(model)}
    for value in gc.get_objects():
        # Asking for `__class__` would wake up lazy modules and proxies.
        if issubclass(type(value), keras.optimizers.Optimizer):
            found[id(value)] = value
    return list(found.values())


_LINE = (
    "`watch` looks for the line only in its first step, and only if that runs "
    "eagerly: keep the weights with `on_nonfinite='stop'`, call "
    "`tf.config.run_functions_eagerly(True)`, and begin with this batch"
)


class LoopHook(TrainingHook):
    """Shows the updates of one model's variables to its monitors.

    Args:
        model: The Keras model.
        every: Updates between two records.
        withhold: See `LoopProbe`; with several replicas every update is made.
        optimizers: A list for those that have trained the model.

    Attributes:
        probe: The `LoopProbe`.
        optimizers: Those that have trained a variable of the model.
        num_updates: How many updates were begun.
        has_optimizer: Whether an optimizer was found.
        graph: `None`: a loss that jumps is not looked for.
    """

    graph = None

    def __init__(self, model, every, withhold, optimizers):
        super().__init__(model, is_drawn_elsewhere=False)
        # A conditional must not hold what the replicas do together.
        withhold = None if self.num_replicas > 1 else withhold
        self.probe = LoopProbe(every, withhold)
        self.optimizers = optimizers
        self.num_updates, self._num_done = 0, 0
        self.has_optimizer = False
        self._recorder = LiveRecorder(
            model, self.barrier, self._note_function, self._add_found
        )
        self._first_step, self._is_first = FirstStep(model), True
        # What was found where nothing could be raised.
        self._pending = None
        self._hooked, self._summed = {}, {}
        self._stack = contextlib.ExitStack()
        self._own = {}
        self._thread = threading.local()
        # By optimizer: updates under way that another one makes by it.
        self._within = collections.Counter()

    def _progress(self):
        if self._num_done:
            return f"after {counted(self._num_done, 'update')}"
        return "before the first update"

    def _switch_off(self):
        with self.barrier.guarded():
            self.probe.switch_off()

    def begin(self, optimizers=None):
        """Hooks optimizers, and looks at what runs until a step is done.

        Args:
            optimizers: One or several, by default all that are alive.
        """
        with self.barrier.guarded():
            if optimizers is None:
                optimizers = live_optimizers(self.model)
            elif not isinstance(optimizers, (list, tuple)):
                optimizers = [optimizers]
            for optimizer in optimizers:
                self._add_found(optimizer)
            self._recorder.open()

    def _add_found(self, optimizer):
        if self.monitors and self.barrier.is_open:
            self.has_optimizer = True
            self.add(optimizer)

    def add(self, optimizer):
        """Hooks one optimizer, the outermost where one is inside another."""
        if id(optimizer) in self._hooked:
            return
        inner = updating(optimizer)
        self._hooked[id(optimizer)] = optimizer, inner
        patches, summed = [], None
        if self.num_replicas > 1:
            if id(inner) not in self._summed:
                self._summed[id(inner)] = SummedHook(self, inner)
                patches += self._summed[id(inner)].patches
            summed = self._summed[id(inner)]
        patches += OptimizerHook(self, optimizer, summed).patches
        for patch in patches:
            self._stack.enter_context(replaced(*patch))

    def end_recording(self):
        """Looks at no step any more, and lets go of what was seen."""
        with self.barrier.guarded():
            self._recorder.close()
            self._recorder.forget()

    def undo(self, monitor):
        """Takes the monitor away; leaves all optimizers as they were.

        Compiled steps run on.
        """
        self.leave()
        self.monitors.remove(monitor)
        self.probe.switch_off()

    def leave(self):
        """Leaves all optimizers as they were."""
        self._stack.close()
        self._hooked.clear()
        self._summed.clear()

    def is_probed(self):
        """Returns whether the update that is made here is measured."""
        is_on = self.barrier.is_open and not is_examining()
        return is_on and is_measured_here()

    @property
    def num_steps(self):
        """How many updates have been seen of the busiest optimizer."""
        captures = self.probe.captures
        return max((c.num_steps for c in captures), default=0)

    @property
    def num_done(self):
        """How many updates are done, or traced."""
        return max(self._num_done, self.num_steps)

    @property
    def num_skipped(self):
        """How many of them were left out, `None` where none ever is."""
        return self.probe.num_skipped

    def first_bad(self):
        """Returns the number of the first bad step, `None` without any."""
        first = int(self.probe.first_bad.read()[0])
        return None if first < 0 else first

    def bad_step(self):
        """Returns what was kept of it, a `KeptStep`."""
        trace = self._recorder.recorded()
        measured = self.probe.take_bad()
        captures = self.probe.captures
        spoiled = [v for c in captures for v in c.finite.take()]
        is_finite = not any((found[:, -1] > 0).any() for _, found in measured)
        is_suspected = is_finite and not spoiled and has_large(measured)
        if is_suspected:
            spoiled = [v for c in captures for v in c.finite.spoiled()]
        return KeptStep(
            self.first_bad(),
            measured,
            trace=trace,
            note=_LINE,
            is_suspected=is_suspected,
            spoiled=tuple(spoiled),
        )

    def stop(self):
        """Leaves the block of `watch`."""
        raise LoopStopped

    @property
    def answers(self):
        """Nothing: each look at a loop is asked anew."""
        return {}

    def recorded(self):
        """See `TrainingHook`."""
        return self._recorder.recorded()

    def batch(self):
        """Returns `None`: the batch of a loop is not known."""

    def evidence(self, variables):
        """Returns what was seen of the step that runs.

        Args:
            variables: Those that are asked about; of several traces the one
                in which their gradients were asked for is taken.
        """
        seen = self._recorder.seen(variables)
        return StepEvidence(self.model, None, seen)

    def forget_evidence(self):
        """Does nothing: what was seen goes with the step."""

    def may_record_next(self):
        """Returns whether a later step shows more: an eager one does."""
        return tf.executing_eagerly()

    def record_next(self):
        """Looks at the next step too."""
        if not self._recorder.is_open:
            self._first_step.begin_with_the_next()
            self._recorder.open()

    def read(self):
        """Lets the monitors read what waits in the graph, and act on it.

        Raises:
            GradientBreakError: If a monitor raises it, now or before where
                nothing could be raised.
            LoopStopped: Likewise.
        """
        if self._pending is not None:
            raise self._pending
        for monitor in self.monitors:
            monitor.read()
            monitor.after_step()

    def update_of(self, optimizer, gradients, given):
        """See `OptimizerHook`; `None` where it trains no variable of ours."""
        if not self._is_watched(optimizer):
            return None
        if given is None and not optimizer.built:
            return None
        variables = applied_variables(optimizer, given)
        own = self._own_of(variables[: len(gradients)])
        if not own:
            return None
        return Update(
            optimizer,
            gradients,
            variables,
            list(own.values()),
            [gradients[number] for number in own],
            unknown_to(optimizer, variables),
        )

    def _is_watched(self, optimizer):
        """Whether a call of `apply` is an update of its own."""
        is_inner = getattr(self._thread, "is_applying", False)
        is_inner = is_inner or self._within[id(optimizer)]
        return self.barrier.is_open and not is_inner and not is_examining()

    def _own_of(self, variables):
        """The model's variables among some, by their place there."""
        found = self._look_up(variables)
        if len(found) < len(variables):
            # The model may have been built in the meantime.
            self._own = {}
            for variable in self.model.trainable_variables:
                self._own[id(variable)] = variable
                self._own[id(variable.value)] = variable
            found = self._look_up(variables)
        return found

    def _look_up(self, variables):
        return {
            number: self._own[id(variable)]
            for number, variable in enumerate(variables)
            if id(variable) in self._own
        }

    @contextlib.contextmanager
    def applying(self, update):
        """What an optimizer does inside of an update is none of its own."""
        _, inner = self._hooked[id(update.optimizer)]
        is_outer = inner is not update.optimizer
        self._thread.is_applying = True
        # A loss scale calls it in other threads where replicas train.
        self._within[id(inner)] += is_outer
        try:
            with self.barrier.around(self._recorder.paused()):
                yield
        finally:
            self._thread.is_applying = False
            self._within[id(inner)] -= is_outer

    def show_gradients(self, update):
        """Shows the gradients of an update; returns whether it is made."""
        optimizer = update.optimizer
        if all(optimizer is not other for other in self.optimizers):
            self.optimizers.append(optimizer)
        self.num_updates += 1
        given = update.own_variables, update.own_gradients, update.is_refused
        return all([w.check_gradients(*given) for w in self.monitors])

    def is_measured(self, update):
        """Returns whether an update is measured.

        Builds its optimizer, and marks the losses that it is made of.
        """
        if update.unknown or update.is_refused or not self.is_probed():
            return False
        if self.probe.withholds and not update.optimizer.built:
            update.optimizer.build(update.variables)
        for loss in self._recorder.losses_here(update.own_variables):
            self.probe.mark_loss(loss)
        return True

    def show_error(self, method, *given):
        """See `OptimizerHook`."""
        for monitor in self.monitors:
            getattr(monitor, method)(*given)

    def note_update(self, update):
        """Takes note that an update was made, or traced."""
        if self.barrier.is_open:
            is_over = self._first_step.note_update(
                update.optimizer, update.own_variables
            )
            if tf.executing_eagerly():
                if self._recorder.is_open and is_over:
                    self._end_first_step()
                self.read()
        self._num_done += 1

    def _note_function(self):
        """A compiled function has returned to Python."""
        if not self.barrier.is_open or not self.num_updates:
            return
        if self._first_step.note_function():
            # An exception must not come out of Python's own tracing.
            try:
                with self._recorder.paused():
                    self._end_first_step()
            except FINDINGS as error:
                self._pending = error

    def _end_first_step(self):
        self._recorder.close()
        try:
            self.read()
            if self._is_first:
                self._is_first = False
                for monitor in self.monitors:
                    monitor.explain_first_step()
        finally:
            self._recorder.forget()
