"""Watches the updates of a custom loop: checks, diagnoses, acts."""

import collections
from dataclasses import replace

import tensorflow as tf

from keras_gradguard.backend import step_evidence
from keras_gradguard.backend.tensorflow.hook.loop import (
    FirstStep,
    LoopHook,
    live_optimizers,
)
from keras_gradguard.backend.tensorflow.tracing.recorder import LiveRecorder
from keras_gradguard.diagnosis.addends import explain_addends, places_of
from keras_gradguard.diagnosis.failures import explain_error
from keras_gradguard.diagnosis.shares import measured, shares_of
from keras_gradguard.errors import (
    FINDINGS,
    GradientBreakError,
    LoopStopped,
)
from keras_gradguard.monitor.first_batch import hidden_cuts
from keras_gradguard.monitor.missing import (
    LoopMissingGradients,
    nothing_seen,
    origins_of_nonfinite,
    warn_of_nothing,
)
from keras_gradguard.monitor.monitor import LEFT_OUT, Monitor
from keras_gradguard.monitor.response import add_notes
from keras_gradguard.records.kinds import severity_of


class LoopRecords:
    """Hands on the records that wait in the graph, each of them once.

    Args:
        hook: The `LoopHook`.
        logbook: The `TrainingLog` to fill.
    """

    def __init__(self, hook, logbook):
        self._hook = hook
        self._logbook = logbook
        self._waiting = collections.deque()

    def written(self):
        """Writes what waits, and yields the figures of each record.

        What its caller leaves behind is written by the next call.
        """
        probe = self._hook.probe
        self._waiting.extend(probe.take())
        if self._waiting:
            self._logbook.see_optimizers(
                probe.named_captures(), self._hook.num_replicas
            )
        while self._waiting:
            step, measured = self._waiting.popleft()
            yield self._logbook.record(measured, step)

    def write(self):
        """Writes what waits, and looks at none of it."""
        for _ in self.written():
            pass


class LoopMonitor(Monitor):
    """The watcher behind `watch`, for one block.

    Args:
        model: The Keras model; it need not be compiled.
        every: Updates between two records.
        logbook: The `TrainingLog` to fill.
        on_break: `"warn"`, `"raise"` or `"stop"`.
        on_nonfinite: The same, or `"skip"`.
        expected: The `Expected` variables without a gradient.
        symptoms: Makes the `Symptoms` of a `LoopHook`.
        is_silent: Whether to warn of nothing.
    """

    def __init__(
        self,
        model,
        every,
        logbook,
        on_break,
        on_nonfinite,
        expected,
        symptoms,
        is_silent=False,
    ):
        withhold = LEFT_OUT[on_nonfinite]
        hook = LoopHook(model, every, withhold, logbook.optimizers)
        self._hook_of = lambda model: hook
        super().__init__(
            model, logbook, on_break, on_nonfinite, expected, symptoms
        )
        self._response.is_silent = is_silent
        self._records = LoopRecords(hook, logbook)
        self._connection = LoopMissingGradients(
            self._response, logbook, expected, self._looking
        )
        self._sight = LiveRecorder(
            model, self.door, self._see_function, self._add
        )
        hook.pause = self._sight.paused
        self._first_step = FirstStep(model)
        self._num_updates = 0
        self._is_first, self._is_added = True, False
        self._pending = None

    def begin(self, optimizers=None):
        """Hooks optimizers and looks at what runs until a step is done.

        Args:
            optimizers: One or several, by default all that are alive.
        """
        with self.door.guarded():
            if optimizers is None:
                optimizers = live_optimizers(self._model)
            elif not isinstance(optimizers, (list, tuple)):
                optimizers = [optimizers]
            for optimizer in optimizers:
                self._add(optimizer)
            self._sight.open()

    def _add(self, optimizer):
        if self.is_on:
            self._is_added = True
            self._hook.add(optimizer)

    def finish(self, is_quiet=False):
        """Leaves all as it was; the last records are written."""
        if self._hook is None:
            return
        with self.door.guarded():
            self._sight.close()
            self._sight.forget()
        if self.is_on:
            # An exception may have come between them and the logbook.
            with self.door.guarded():
                self._records.write()
        hook, self._hook = self._hook, None
        with self.door.guarded():
            hook.undo()
        with self.door.guarded():
            self._logbook.close()
        is_quiet = is_quiet or not self.door.is_open
        if not self._num_updates and not is_quiet:
            warn_of_nothing(self._model, self._is_added)

    def see_gradients(self, variables, gradients, is_refused):
        """Checks an update's gradients before they are applied.

        Args:
            variables: The model's own variables among those of the update.
            gradients: Their gradients, `None` where there is none.
            is_refused: Whether the optimizer will raise, having no gradient.

        Raises:
            GradientBreakError: If a gradient is missing and `on_break` is
                `"raise"`.
            LoopStopped: If it is `"stop"`.
        """
        self._lost = ()
        self._num_updates += 1
        if self.is_on:
            with self.door.guarded():
                self._check_loop(variables, gradients, is_refused)

    def _check_loop(self, variables, gradients, is_refused):
        step = super()._step(variables)
        missing = []
        for number, gradient in enumerate(gradients):
            if gradient is None:
                self._logbook.lose(variables[number], step.paths[number])
                if not self._expected.covers(step.paths[number]):
                    missing.append(number)
        if not missing:
            return
        quiet = is_refused and self._on_break != "stop"
        found = self._explain(step, missing, quiet, is_refused)
        if quiet:
            self._lost = found
        else:
            self._act(found, self._on_break)

    def _explain(self, step, missing, quiet, is_refused):
        trace = self._sight.trace_of([step.variables[n] for n in missing])
        may_wait = tf.executing_eagerly() and not is_refused
        step = self._with(step, trace)
        found = self._connection.explain_live(step, missing, quiet, may_wait)
        if found is None and not self._sight.is_open:
            self._first_step.begin_with_the_next()
            self._sight.open()
        return found or ()

    def _act(self, found, action):
        if found and action == "stop":
            self._logbook.flush()
            raise LoopStopped
        self._response.act(found, action)

    def see_update(self, optimizer, variables):
        """Takes note that an update was made, or traced."""
        if not self.is_on:
            return
        with self.door.guarded():
            is_over = self._first_step.see_update(optimizer, variables)
            if tf.executing_eagerly():
                if self._sight.is_open and is_over:
                    self._end_first_step()
                self.look()

    def _see_function(self):
        """A compiled function has returned to Python."""
        if not self.is_on or not self._num_updates:
            return
        if self._first_step.see_function():
            # An exception must not come out of Python's own tracing.
            try:
                with self._sight.paused():
                    self._end_first_step()
            except FINDINGS as error:
                self._pending = error

    def _end_first_step(self):
        self._sight.close()
        try:
            self.look()
            if self._is_first:
                self._is_first = False
                with self.door.guarded():
                    self._look_behind_zeros()
                    self._look_at_addends()
        finally:
            self._sight.forget()

    def _look_behind_zeros(self):
        captures = self._hook.probe.named_captures()
        measured = [(c.variables, c.read(), None, n) for n, c in captures]
        for findings, severity in hidden_cuts(
            self._step, measured, self._logbook, self._expected
        ):
            self._tell(findings, severity)

    def _look_at_addends(self):
        step = self._step(self._model.trainable_variables)
        trace = step.evidence.seen
        if trace.error is not None:
            return
        found = explain_addends(step, trace, is_judged=False)
        found = measured(found, shares_of(step, trace, found))
        if found.reaches:
            self._logbook.reach(step.paths, found.reaches)
        found = found.without(places_of(self._logbook.report.diagnoses))
        self._tell(self._expected.strip(found.findings), "warning")

    def _tell(self, findings, severity):
        found = self._response.add_broken(findings, severity)
        self._act(found, self._on_break)

    def look(self):
        """Reads what the graph has measured, writes it and looks at it.

        Raises:
            GradientBreakError: If something is wrong and is to be raised.
            LoopStopped: If it is to stop the block.
        """
        if self._pending is not None:
            raise self._pending
        if not self.is_on:
            return
        with self.door.guarded():
            for figures in self._records.written():
                for finding in self._symptoms.of_record(figures):
                    number = len(self._model.trainable_variables)
                    severity = severity_of(len(finding.variables), number)
                    self._tell([finding], severity)
            self._look_for_bad_step()

    def _look_for_bad_step(self):
        first = int(self._hook.latch()[0])
        if self._is_latched or first < 0:
            return
        step = self._step(self._model.trainable_variables)
        measured = self._hook.probe.take_bad()
        found = origins_of_nonfinite(step, measured, self._sight.recorded())
        severity = severity_of(len(found[0].variables), len(step.paths))
        quiet = self._on_nonfinite == "raise"
        found = self._response.add(found, severity, quiet, first)
        self._is_latched = self._on_nonfinite != "skip"
        if not self._is_latched:
            self._hook.probe.latch.clear()
        self._act(found, self._on_nonfinite)

    def see_exit(self, error):
        """Adds the diagnosis to an exception that is about gradients.

        Args:
            error: What the block raises.
        """
        if not self.is_on or not isinstance(error, Exception):
            return
        with self.door.guarded():
            if isinstance(error, GradientBreakError):
                self._logbook.keep(error.report.diagnoses)
            if isinstance(error, FINDINGS):
                return
            self._sight.close()
            step = self._step(self._model.trainable_variables)
            found = explain_error(step, error)
            found = self._response.add_broken(found, "error", quiet=True)
            add_notes(error, found)

    def _step(self, variables):
        step = super()._step(variables)
        trace = self._sight.trace_of(variables) or nothing_seen()
        return self._with(step, trace)

    @staticmethod
    def _with(step, trace):
        """The same step, with what has been seen of it."""
        evidence = step_evidence(step.model, step.data, trace)
        return replace(step, evidence=evidence)
