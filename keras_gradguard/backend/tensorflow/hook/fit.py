"""Step 1 of 5: hook the training step of one model, and undo it.

Only instances are touched, and only for one step at a time: the model's
`train_function`, and what `OptimizerHook` names.
"""

import functools
import weakref

import tensorflow as tf

from keras_gradguard.backend.tensorflow.capture.probe import NORM, Probe
from keras_gradguard.backend.tensorflow.hook.first_trace import FirstTrace
from keras_gradguard.backend.tensorflow.hook.optimizer import OptimizerHook
from keras_gradguard.backend.tensorflow.hook.running import (
    Running,
    end_with,
    fit_draws_elsewhere,
    is_measured_here,
    num_replicas,
    running_fit,
)
from keras_gradguard.backend.tensorflow.hook.train_function import (
    OwnStep,
    changed_since,
    is_traced,
    made_anew,
    note_run,
    tracer_of,
)
from keras_gradguard.backend.tensorflow.internals.batches import (
    packed_batch,
    spec_of,
)
from keras_gradguard.backend.tensorflow.internals.patch import Replacement
from keras_gradguard.backend.tensorflow.internals.randomness import Drawing
from keras_gradguard.backend.tensorflow.tracing.restore import is_examining
from keras_gradguard.errors import FaultBarrier, counted, fault_sentence
from keras_gradguard.model.layers import is_default_step
from keras_gradguard.model.optimizers import optimizers_of


class Logs(dict):
    """Logs that Keras takes at the end of an epoch as it would without us.

    If their names are those of the model's metrics, Keras takes the results
    of the metrics instead. Our entry must not hide that they are, so the
    values are exchanged here; Keras asks for the names at no other time.

    Args:
        model: The model that trains.
        logs: What `train_function` returned.
        own: Name of our entry.
        door: The `Door` of the guard.
    """

    def __init__(self, model, logs, own, door):
        super().__init__(logs)
        self._model = model
        self._own = own
        self._door = door

    def keys(self):
        """Returns the names."""
        is_done = False
        with self._door.guarded():
            self._exchange()
            is_done = True
        if not is_done:
            # Without it Keras sees for itself.
            self.pop(self._own, None)
        return super().keys()

    def _exchange(self):
        results = self._model.get_metrics_result()
        if self._own not in results and {*results, self._own} == {*self}:
            self.update(results)


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


class FitHook:
    """Shows each training step of one model to its watchers.

    A watcher has `withhold` and `has_histograms`, see `Probe`;
    `see_gradients(variables, gradients)`, which returns whether the update is
    applied;
    `see_apply_error(error, variables, unknown)` for a ValueError of the
    optimizer; `see_step_error(error)` for an exception inside a step;
    `see_failure(error)` for one that leaves the train function; `finish()`.

    Args:
        model: A compiled Keras model whose `train_function` is made.
        fit: See `running_fit`.

    Attributes:
        door: The `Door` of all that watches this training. After a fault
            the step that was traced runs on: another trace would run the
            user's Python code once more, and begin anew with each random op.
        not_checked: A list of what is to be said of faults, see `Report`.
        is_running: Whether a call of the train function runs.
        is_drawn_elsewhere: Whether other threads may draw random numbers
            for the batches.
    """

    def __init__(self, model, fit=()):
        self.model = model
        self.door = FaultBarrier(self._see_fault)
        self.not_checked = []
        self._num_running, self._num_done = 0, 0
        self.watchers = []
        self.probe = None
        self.data = self._values = None
        self._latch = None
        self.graph = None
        self.num_steps = 0
        self.num_replicas = num_replicas(model)
        self.is_of = end_with(fit, self)
        self.is_drawn_elsewhere = fit_draws_elsewhere(fit)
        self.is_stale = is_traced(model)
        self._own_step = None
        if not is_default_step(model):
            self._own_step = OwnStep(
                model.train_step, lambda: self._is_due, self.door
            )
        self.first_trace = FirstTrace(model, self.num_replicas == 1, self.door)
        self._guarded_step = self._guard(model.train_step)
        self._make_guarded()
        # Older Keras looks `train_step` up only when it traces.
        hooked = Replacement(
            [
                (model, "train_step", self._guarded_step),
                *(changed_since(model) if self.is_stale else ()),
                *self.first_trace.patches,
                *(
                    patch
                    for optimizer in optimizers_of(model)
                    for patch in OptimizerHook(self, optimizer).patches
                ),
            ]
        )
        self._around = self.door.around(
            Running(self), Drawing(self.is_drawn_elsewhere), hooked
        )

    @property
    def is_running(self):
        """Whether a call of the train function runs."""
        return self._num_running > 0

    def _see_fault(self, reason):
        when = "before its first step was done"
        if self._num_done:
            when = f"after {counted(self._num_done, 'step')} of this training"
        self.not_checked.append(fault_sentence(when, reason))
        if self.probe is not None:
            with self.door.guarded():
                self.probe.switch_off()

    def _make_guarded(self):
        self._is_built = self.model.built
        self._guarded = made_anew(self.model, self._guarded_step)

    def undo(self, watcher):
        """Takes a watcher away, and with the last one the hook."""
        if watcher in self.watchers:
            self.watchers.remove(watcher)
        if not self.watchers and _known(self.model) is self:
            del _hooks[self.model]

    def guard_next(self, is_due=False):
        """Puts the guarded train function in place for one call.

        Args:
            is_due: Whether its numbers are to be recorded.
        """
        if self.probe is None:
            held = {watcher.withhold for watcher in self.watchers}
            known = [h for h in ("bad", "after") if h in held]
            if self.num_replicas > 1:
                # A conditional must not hold what the replicas do together.
                known = []
            self.probe = Probe(
                self.model,
                self.num_replicas,
                known[0] if known else None,
                any(watcher.has_histograms for watcher in self.watchers),
            )
        elif self.probe.withholds and self.model.built and not self._is_built:
            # The first trace knew nothing of the statistics of layers.
            self._make_guarded()
        # Another watcher may have asked for a record of this call.
        is_first = vars(self.model)["train_function"] != self._run
        self.probe.expect(is_due or (not is_first and self.probe.is_due))
        self._put_in_place()

    def run_on(self):
        """Lets the step that was traced run once more, watched or not."""
        if self.has_run:
            self._put_in_place()

    def _put_in_place(self):
        names = vars(self.model)
        if names["train_function"] != self._run:
            self._plain = names["train_function"]
            names["train_function"] = self._run

    def end(self):
        """Leaves the model as it was, and all watchers with it."""
        with self.door.guarded():
            self.take_back()
            for watcher in list(self.watchers):
                watcher.finish()

    def take_back(self):
        """Puts the plain train function back if the guarded one is there."""
        if vars(self.model)["train_function"] == self._run:
            vars(self.model)["train_function"] = self._plain

    def _run(self, iterator):
        """Runs one guarded call; the model is as before when it ends."""
        tracer = None
        with self.door.guarded():
            self.take_back()
            if not self.has_run:
                spec = note_run(self._plain, iterator)
                tracer = tracer_of(self._guarded, spec)
        if not (self.door.is_open or self.has_run):
            return self._plain(iterator)
        self.num_steps += self.model.steps_per_execution
        self._num_running += 1
        try:
            with self._around:
                if tracer is not None:
                    tracer()
                logs = self._guarded(iterator)
        except (StopIteration, tf.errors.OutOfRangeError):
            raise
        except BaseException as error:
            with self.door.guarded():
                for watcher in list(self.watchers):
                    watcher.see_failure(error)
            raise
        finally:
            self._num_running -= 1
        self._num_done = self.num_steps
        with self.door.guarded():
            if self.door.is_open:
                return self._taken_from(logs)
        with self.door.guarded():
            self.probe.stripped(logs)
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
        return Logs(self.model, {**logs, NORM: norm}, NORM, self.door)

    @property
    def _is_due(self):
        return self.probe is not None and self.probe.is_due

    def _guard(self, step):
        run = step if self._own_step is None else self._own_step.run

        @functools.wraps(step)
        def train_step(data):
            before = self._values
            with self.door.guarded():
                if self.door.is_open:
                    self.data, self._values = spec_of(data), data
                    self.first_trace.begin(not self.probe.withholds)
                    if self.is_probed():
                        self.probe.begin(data)
            try:
                logs = run(data)
            except Exception as error:
                with self.door.guarded():
                    self._see_step_error(error)
                raise
            finally:
                self._values = before
            with self.door.guarded():
                logs = self.probe.end(logs) if self.is_probed() else logs
            self.first_trace.end()
            return logs

        return train_step

    def _see_step_error(self, error):
        # A look at a step may end where the step itself goes on.
        for watcher in () if is_examining() else self.watchers:
            watcher.see_step_error(error)

    def is_probed(self):
        """Returns whether the step that is made here and now is measured.

        A draft, which TensorFlow will trace once more, is not.
        """
        return (
            self.door.is_open
            and not self.first_trace.is_draft_here()
            and not is_examining()
            and is_measured_here()
            and (self._own_step is None or self._own_step.is_apart())
        )

    @property
    def has_run(self):
        """Whether a step of this training has begun."""
        return self.num_steps > 0

    def latch(self):
        """Returns `Latch.read` if the last call had a bad step, or `None`."""
        return self._latch

    def data_here(self):
        """Returns the batch of the step that runs, else what it was like."""
        return self.data if self._values is None else self._values

    def batch(self):
        """Returns `Probe.batch` in the structure that the step got."""
        tensors = None if self.probe is None else self.probe.batch()
        return None if tensors is None else packed_batch(self.data, tensors)
