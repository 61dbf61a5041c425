"""Hooks the train step of a model in `fit`, and undoes it.

Only instances are touched, and only for one step at a time: the model's
`train_function`, and what `GuardedStep` names.
"""

import contextlib
import math
import weakref

import tensorflow as tf

from keras_gradguard.backend.tensorflow.capture.bad_step import KeptStep
from keras_gradguard.backend.tensorflow.capture.probe import NORM, SKIPPED
from keras_gradguard.backend.tensorflow.hook.guarded_step import (
    GuardedStep,
    keep_step,
    step_for,
    trace_conditions,
)
from keras_gradguard.backend.tensorflow.hook.running import (
    Running,
    end_with,
    fit_draws_elsewhere,
    running_fit,
)
from keras_gradguard.backend.tensorflow.hook.train_function import (
    note_run,
    tracer_of,
)
from keras_gradguard.backend.tensorflow.hook.training import TrainingHook
from keras_gradguard.backend.tensorflow.internals.batches import packed_batch
from keras_gradguard.backend.tensorflow.internals.randomness import Drawing
from keras_gradguard.backend.tensorflow.tracing.evidence import StepEvidence
from keras_gradguard.model.layers import runs_eagerly
from keras_gradguard.records.text import counted


class Logs(dict):
    """Logs that Keras takes at the end of an epoch as it would without us.

    If their names are those of the model's metrics, Keras takes the results
    of the metrics instead. Our entry must not hide that they are, so the
    values are exchanged here; Keras asks for the names at no other time.

    Args:
        model: The model that trains.
        logs: What `train_function` returned.
        own: Names of our entries.
        barrier: The `FaultBarrier` of the guard.
        is_void: Whether no step has counted so far: all were left out.
    """

    def __init__(self, model, logs, own, barrier, is_void=False):
        super().__init__(logs)
        self._model = model
        self._own = own
        self._barrier = barrier
        self._is_void = is_void
        if is_void:
            self._make_void()

    def keys(self):
        """Returns the names."""
        is_done = False
        with self._barrier.guarded():
            self._exchange()
            is_done = True
        if not is_done:
            # Without it Keras sees for itself.
            for name in self._own:
                self.pop(name, None)
        return super().keys()

    def _exchange(self):
        results = self._model.get_metrics_result()
        if {*results, *self._own} == {*self}:
            if not results.keys() & {*self._own}:
                self.update(results)
        if self._is_void:
            self._make_void()

    def _make_void(self):
        """A metric that nothing was added to is not 0, the best loss."""
        values = {n: math.nan for n in self if n not in self._own}
        self.update(values)


# The hooks themselves hold their model.
_hooks = weakref.WeakKeyDictionary()


def hook_of(model):
    """Returns the hook of a training that begins, making it if need be.

    The callbacks of one `fit` share it. One that is left over from a `fit`
    that ended in an exception outside the training step is taken away first.
    """
    fit, hook = running_fit(), _known(model)
    if hook is not None and (hook.has_run or not hook.is_of(fit)):
        hook.end()
        hook = None
    if hook is None:
        hook = FitHook(model, fit)
        _hooks[model] = weakref.ref(hook)
    return hook


def _known(model):
    reference = _hooks.get(model)
    return None if reference is None else reference()


_NO_BATCH = "the batch of the bad step was not kept"
_NOTHING = contextlib.nullcontext()


class FitHook(TrainingHook):
    """Shows each training step of one model to its monitors.

    Args:
        model: A compiled Keras model whose `train_function` is made.
        fit: See `running_fit`.

    Attributes:
        barrier: After a fault the step that was traced runs on: another trace
            would run the user's Python code once more, and begin anew with
            each random op.
        num_steps: How many steps have begun.
        is_of: Returns whether a `fit` is this one, see `end_with`.
    """

    def __init__(self, model, fit=()):
        super().__init__(model, fit_draws_elsewhere(fit))
        self._num_running, self._num_done = 0, 0
        self.num_steps = 0
        self.is_of = end_with(fit, self)
        self._callbacks = weakref.ref(fit[-1]) if fit else lambda: None
        self._step = self._plain = self._around = self._bad = None
        self._evidence, self._skips = None, False
        self._settled, self._is_around = lambda: None, False
        self._logs_norm = False
        # What its step holds for, once it is traced; `None` to keep no step.
        self._traced_for = None

    @property
    def callbacks(self):
        """The callbacks of the `fit` that runs, a list."""
        return list(getattr(self._callbacks(), "callbacks", ()))

    @property
    def is_running(self):
        """Whether a call of the train function runs."""
        return self._num_running > 0

    def _progress(self):
        if self._num_done:
            return f"after {counted(self._num_done, 'step')} of this training"
        return "before the first step ended"

    def _switch_off(self):
        if self.probe is not None:
            with self.barrier.guarded():
                self.probe.switch_off()

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

    def undo(self, monitor):
        """Takes a monitor away, and with the last one the hook."""
        if monitor in self.monitors:
            self.monitors.remove(monitor)
        if not self.monitors and _known(self.model) is self:
            del _hooks[self.model]
            self._leave_step()

    def _leave_step(self):
        step, self._step, self._evidence = self._step, None, None
        if step is None:
            return
        step.training = None
        with self.barrier.guarded():
            step.hooked.put_back()
        plain = vars(self.model)["train_function"]
        is_whole = step.is_sound and self.barrier.is_open
        if self._traced_for and is_whole and plain is self._plain:
            with self.barrier.guarded():
                keep_step(step, plain, self._traced_for)

    def guard_next(self, is_due=False):
        """Puts the guarded train function in place for one call.

        Args:
            is_due: Whether its numbers are to be recorded.
        """
        if self._step is None:
            self._take(*step_for(self.model, self._modes()))
        step = self._step
        if step.is_partial:
            step.make_whole()
        names, probe = vars(self.model), step.probe
        is_first = names["train_function"] != self._run
        # Another monitor may have asked for a record of this call.
        probe.expect(is_due or (not is_first and probe.is_due))
        if is_first:
            self._put_in_place(names)

    def run_on(self):
        """Lets the step that was traced run once more, watched or not."""
        names = vars(self.model)
        if self.has_run and names["train_function"] != self._run:
            self._put_in_place(names)

    def _put_in_place(self, names):
        self._plain = names["train_function"]
        names["train_function"] = self._run

    def _modes(self):
        held = {monitor.withhold for monitor in self.monitors}
        known = [h for h in ("bad", "after") if h in held]
        if self.num_replicas > 1:
            # A conditional must not hold what the replicas do together.
            known = []
        has_histograms = any(w.has_histograms for w in self.monitors)
        return known[0] if known else None, has_histograms

    def _take(self, step, traced_for=None):
        self._step, self._traced_for = step, traced_for
        self._settled = lambda: None
        step.training, step.barrier = self, self.barrier
        self._skips = step.probe.skips
        around = [Running(self), step.hooked]
        if self.is_drawn_elsewhere:
            around.insert(1, Drawing(True))
        self._around = self.barrier.around(*around)

    def end(self):
        """Leaves the model as it was, and all monitors with it."""
        # Whoever ends it may be in the midst of anything.
        self._traced_for = None
        with self.barrier.guarded():
            self.take_back()
            for monitor in list(self.monitors):
                monitor.finish()

    def take_back(self):
        """Puts the plain train function back if the guarded one is there."""
        if vars(self.model)["train_function"] == self._run:
            vars(self.model)["train_function"] = self._plain

    def _run(self, iterator):
        """Runs one guarded call; the model is as before when it ends."""
        is_first, tracer = not self.num_steps, None
        with self.barrier:
            self.take_back()
            if is_first:
                tracer = self._prepared(iterator)
        if is_first and not self.barrier.is_open:
            return self._plain(iterator)
        self.num_steps += self.model.steps_per_execution
        self._num_running += 1
        is_settled, around = False, _NOTHING
        with self.barrier.guarded():
            is_settled = self._settled() is iterator
            if not is_settled:
                around = self.barrier.around(self.around())
        try:
            with around:
                if is_first:
                    with self.barrier.guarded():
                        self._step.show_again()
                if tracer is not None:
                    tracer()
                logs = self._step.function(iterator)
        except (StopIteration, tf.errors.OutOfRangeError):
            raise
        except BaseException as error:
            # A trace may have been cut short.
            self._traced_for = None
            with self.barrier.guarded():
                for monitor in list(self.monitors):
                    monitor.explain_failure(error)
                    monitor.finish()
            raise
        finally:
            self._num_running -= 1
        self._num_done = self.num_steps
        with self.barrier:
            if not is_settled:
                self._settle(iterator)
            if is_first and self.barrier.is_open:
                self._note_traced()
            if self.barrier.is_open:
                return self._taken_from(logs)
        with self.barrier.guarded():
            self.probe.stripped(logs)
        return logs

    @contextlib.contextmanager
    def around(self):
        """Puts the hooks of the step in place while the block runs.

        They are needed where Python runs the step: in a trace, or in each
        eager step. A call of what is traced needs none.
        """
        if self._is_around:
            yield
            return
        self._is_around = True
        try:
            with self._around:
                yield
        finally:
            self._is_around = False

    def _settle(self, iterator):
        """Notes that the step of an iterator is traced."""
        if self._step.runs_compiled and isinstance(iterator, tf.data.Iterator):
            self._settled = weakref.ref(iterator)

    def _prepared(self, iterator):
        """Finds the trace for the first batch; returns what makes it."""
        self._logs_norm = any(monitor.log_norm for monitor in self.monitors)
        spec = note_run(self._plain, iterator)
        if not self._step.runs_as(spec):
            is_due = self.probe.is_due
            self._take(GuardedStep(self.model, self._step.modes))
            self.probe.expect(is_due)
        self._step.begin(spec)
        return tracer_of(self._step.function, spec, iterator)

    def _note_traced(self):
        if self._traced_for is None and not runs_eagerly(self.model):
            modes = self._step.modes
            self._traced_for = trace_conditions(self.model, modes)

    def _taken_from(self, logs):
        """Returns the logs of a call as Keras is to get them."""
        probe = self._step.probe
        norm, is_bad = probe.take(logs)
        self._bad = int(probe.first_bad.read()[0]) if is_bad else None
        if not isinstance(logs, dict):
            return logs
        if norm is None or NORM in logs:
            # A step of the user's own may take that name for itself.
            return logs
        own, is_void = {}, False
        if self._logs_norm:
            own[NORM] = norm
        if self._skips and SKIPPED not in logs:
            own[SKIPPED] = probe.epoch_totals.num_bad
            is_void = probe.epoch_totals.are_all_bad
        if not own:
            return logs
        known = {**logs, **own}
        return Logs(self.model, known, tuple(own), self.barrier, is_void)

    @property
    def num_done(self):
        """How many steps are done."""
        return self._num_done

    @property
    def num_skipped(self):
        """How many of them were left out, `None` where none ever is."""
        return None if self.probe is None else self.probe.num_skipped

    @property
    def has_run(self):
        """Whether a step of this training has begun."""
        return self.num_steps > 0

    def first_bad(self):
        """Returns the number of the bad step of the last call, or `None`."""
        return self._bad

    def bad_step(self):
        """Returns what was kept of it, a `KeptStep`."""
        weights, tensors, measured, is_suspected, spoiled = (
            self.probe.bad_step()
        )
        batch = self.batch()
        # What its logs alone make suspected is run again, so the last batch of
        # a call will do.
        is_known = tensors is not None or not is_suspected
        if self.model.steps_per_execution > 1 and is_known:
            batch = None
            if tensors is not None:
                batch = packed_batch(self.data, tensors)
        return KeptStep(
            self._bad,
            measured,
            weights,
            batch,
            note=_NO_BATCH,
            is_suspected=is_suspected,
            spoiled=spoiled,
        )

    def stop(self):
        """Ends the training after this step."""
        self.model.stop_training = True

    def evidence(self, variables):
        """Returns what looks at the step that runs, the same until its end.

        Args:
            variables: The variables that are asked about.
        """
        data = self.data_here()
        if self._evidence is None or self._evidence.data is not data:
            self._evidence = StepEvidence(self.model, data)
        return self._evidence

    def forget_evidence(self):
        """Lets go of a trace, which takes much memory."""
        self._evidence = None

    def may_record_next(self):
        """Returns whether a later step shows more; here each shows all."""
        return False

    def data_here(self):
        """Returns the batch of the step that runs, else what it was like."""
        return None if self._step is None else self._step.data_here()

    def batch(self):
        """Returns `Probe.batch` in the structure that the step got."""
        tensors = None if self.probe is None else self.probe.batch()
        return None if tensors is None else packed_batch(self.data, tensors)
