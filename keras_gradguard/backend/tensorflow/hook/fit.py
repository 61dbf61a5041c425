"""Step 1 of 5: hook the training step of one model, and undo it.

Only instances are touched, and only for one step at a time: the model's
`train_function`, and what `GuardedStep` names.
"""

import weakref

import tensorflow as tf

from keras_gradguard.backend.tensorflow.capture.probe import NORM
from keras_gradguard.backend.tensorflow.hook.guarded_step import (
    GuardedStep,
    keep_step,
    step_for,
    trace_conditions,
)
from keras_gradguard.backend.tensorflow.hook.running import (
    Running,
    end_with,
    num_replicas,
    running_fit,
)
from keras_gradguard.backend.tensorflow.hook.train_function import (
    note_run,
    trace_for,
)
from keras_gradguard.backend.tensorflow.internals.batches import packed_batch
from keras_gradguard.errors import FaultBarrier
from keras_gradguard.model.layers import runs_eagerly


class Logs(dict):
    """Logs that Keras takes at the end of an epoch as it would without us.

    If their names are those of the model's metrics, Keras takes the results
    of the metrics instead. Our entry must not hide that they are, so the
    values are exchanged here; Keras asks for the names at no other time.

    Args:
        model: The model that trains.
        logs: What `train_function` returned.
        own: Name of our entry.
    """

    def __init__(self, model, logs, own):
        super().__init__(logs)
        self._model = model
        self._own = own

    def keys(self):
        """Returns the names."""
        results = self._model.get_metrics_result()
        if self._own not in results and {*results, self._own} == {*self}:
            self.update(results)
        return super().keys()


# The hooks themselves hold their model.
_hooks = weakref.WeakKeyDictionary()


def hook_of(model):
    """Returns the hook of a training that begins, making it if need be.

    The callbacks of one `fit` share it. One that is left over from a `fit`
    that ended in an exception outside the training step is taken away first.
    """
    fit, hook = running_fit(), _known(model)
    if hook is not None and (hook.has_run or hook.fit() is not fit):
        hook.end()
        hook = None
    if hook is None:
        hook = FitHook(model, fit)
        _hooks[model] = weakref.ref(hook)
    return hook


def _known(model):
    reference = _hooks.get(model)
    return None if reference is None else reference()


class FitHook:
    """Shows each training step of one model to its watchers.

    A watcher has `withhold` and `has_histograms`, see `Probe`;
    `see_gradients(variables, gradients)`, whose gradients are `None` where
    the tape found no way and else anything, and which returns whether the
    update is applied;
    `see_apply_error(error, variables, unknown)` for a ValueError of the
    optimizer; `see_step_error(error)` for an exception inside a step;
    `see_failure(error)` for one that leaves the train function; `finish()`.

    Args:
        model: A compiled Keras model whose `train_function` is made.
        fit: See `running_fit`.
    """

    def __init__(self, model, fit=None):
        self.model = model
        self.watchers = []
        self.num_steps = 0
        self.num_replicas = num_replicas(model)
        self.fit = end_with(fit, self)
        self.door = FaultBarrier()
        self._step = self._plain = self._latch = None
        # What its step holds for, once it is traced; `None` to keep no step.
        self._traced_for = None
        self._running = Running(self)

    @property
    def probe(self):
        """The `Probe` of the step, `None` before the first one."""
        return None if self._step is None else self._step.probe

    @property
    def data(self):
        """What a batch is like, `None` before the first step."""
        return None if self._step is None else self._step.traced.data

    @property
    def graph(self):
        """See `Traced.graph`."""
        return None if self._step is None else self._step.traced.graph

    @property
    def answers(self):
        """See `Step.answers`."""
        return {} if self._step is None else self._step.traced.answers

    def show(self, show):
        """See `GuardedStep.show`."""
        return self._step.show(show)

    def undo(self, watcher):
        """Takes a watcher away, and with the last one the hook."""
        if watcher in self.watchers:
            self.watchers.remove(watcher)
        if not self.watchers and _known(self.model) is self:
            del _hooks[self.model]
            self._leave_step()

    def _leave_step(self):
        step, self._step = self._step, None
        if step is None:
            return
        step.training = None
        plain = vars(self.model)["train_function"]
        is_whole = step.is_sound and self.door.is_open
        if self._traced_for and is_whole and plain is self._plain:
            with self.door.guarded():
                keep_step(step, plain, self._traced_for)

    def guard_next(self, is_due=False):
        """Puts the guarded train function in place for one call.

        Args:
            is_due: Whether its numbers are to be recorded.
        """
        if self._step is None:
            self._take(*step_for(self.model, self._modes()))
        self._step.make_whole()
        names = vars(self.model)
        is_first = names["train_function"] != self._run
        # Another watcher may have asked for a record of this call.
        self.probe.expect(is_due or (not is_first and self.probe.is_due))
        if is_first:
            self._plain = names["train_function"]
            names["train_function"] = self._run

    def _modes(self):
        held = {watcher.withhold for watcher in self.watchers}
        known = [h for h in ("bad", "after") if h in held]
        if self.num_replicas > 1:
            # A conditional must not hold what the replicas do together.
            known = []
        has_histograms = any(w.has_histograms for w in self.watchers)
        return known[0] if known else None, has_histograms

    def _take(self, step, traced_for=None):
        self._step, self._traced_for = step, traced_for
        step.training = self

    def end(self):
        """Leaves the model as it was, and all watchers with it."""
        # Whoever ends it may be in the midst of anything.
        self._traced_for = None
        self.take_back()
        for watcher in list(self.watchers):
            watcher.finish()

    def take_back(self):
        """Puts the plain train function back if the guarded one is there."""
        if vars(self.model)["train_function"] == self._run:
            vars(self.model)["train_function"] = self._plain

    def _run(self, iterator):
        """Runs one guarded call; the model is as before when it ends."""
        self.take_back()
        run = self._run_again if self.has_run else self._run_first
        self.num_steps += self.model.steps_per_execution
        try:
            logs = run(iterator)
            with self.door.guarded():
                logs = self._taken_from(logs)
            return logs
        except (StopIteration, tf.errors.OutOfRangeError):
            raise
        except BaseException as error:
            # A trace may have been cut short.
            self._traced_for = None
            for watcher in list(self.watchers):
                watcher.see_failure(error)
            raise

    def _run_again(self, iterator):
        with self._running, self._step.hooked:
            return self._step.function(iterator)

    def _run_first(self, iterator):
        spec = None
        with self.door.guarded():
            spec = note_run(self._plain, iterator)
            if not self._step.runs_as(spec):
                is_due = self.probe.is_due
                self._take(GuardedStep(self.model, self._step.modes))
                self.probe.expect(is_due)
            self._step.begin(spec)
        with self._running, self._step.hooked:
            self._step.show_again()
            trace_for(self._step.function, spec, iterator)
            logs = self._step.function(iterator)
        if self._traced_for is None and not runs_eagerly(self.model):
            with self.door.guarded():
                modes = self._step.modes
                self._traced_for = trace_conditions(self.model, modes)
        return logs

    def _taken_from(self, logs):
        """Returns the logs of a call as Keras is to get them."""
        norm, is_bad = self.probe.take(logs)
        self._latch = self.probe.latch.read() if is_bad else None
        if not isinstance(logs, dict):
            return logs
        if norm is None or NORM in logs:
            # A step of the user's own may take that name for itself.
            return logs
        return Logs(self.model, {**logs, NORM: norm}, NORM)

    @property
    def has_run(self):
        """Whether a step of this training has begun."""
        return self.num_steps > 0

    def latch(self):
        """Returns `Latch.read` if the last call had a bad step, or `None`."""
        return self._latch

    def data_here(self):
        """Returns the batch of the step that runs, else what it was like."""
        return None if self._step is None else self._step.data_here()

    def batch(self):
        """Returns `Probe.batch` in the structure that the step got."""
        tensors = None if self.probe is None else self.probe.batch()
        return None if tensors is None else packed_batch(self.data, tensors)
