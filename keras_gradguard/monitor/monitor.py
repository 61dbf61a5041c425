"""Watches the steps of one training: checks, diagnoses, acts."""

from keras_gradguard.backend import step_evidence
from keras_gradguard.backend.tensorflow.hook.fit import hook_of
from keras_gradguard.backend.tensorflow.internals.randomness import (
    Drawing,
    looking,
)
from keras_gradguard.backend.tensorflow.tracing.failures import (
    is_backward_crash,
)
from keras_gradguard.diagnosis.failures import explain_error
from keras_gradguard.diagnosis.not_applied import unknown_findings
from keras_gradguard.diagnosis.questions import explain_zero
from keras_gradguard.errors import FINDINGS, GradientBreakError
from keras_gradguard.graph.trace import Step
from keras_gradguard.monitor.first_batch import FirstBatch, hidden_cuts
from keras_gradguard.monitor.missing import MissingGradients
from keras_gradguard.monitor.response import Response, add_notes
from keras_gradguard.records.kinds import severity_of

LEFT_OUT = {"warn": None, "skip": "bad", "stop": "after", "raise": "after"}


class Monitor:
    """The watcher behind `GradHealthCallback`, for one training.

    Args:
        model: A compiled Keras model whose `train_function` is made.
        logbook: The `TrainingLog` to fill.
        on_break: `"warn"`, `"raise"` or `"stop"`.
        on_nonfinite: The same, or `"skip"`.
        expected: The `Expected` variables without a gradient and breaks.
        symptoms: Makes the `Symptoms` of a hook.

    Attributes:
        door: The `FaultBarrier` of all that watches this training.
    """

    _hook_of = staticmethod(hook_of)

    def __init__(
        self, model, logbook, on_break, on_nonfinite, expected, symptoms
    ):
        self._model = model
        self._logbook = logbook
        self._on_break = on_break
        self._response = Response(model, logbook, on_break, expected)
        self._connection = MissingGradients(
            self._response, logbook, expected, self._looking
        )
        self._first = FirstBatch(self._response, logbook, self._connection)
        self._on_nonfinite = on_nonfinite
        self._expected = expected
        self._lost = ()
        self._is_latched = False
        self._evidence = None
        self._hook = self._hook_of(model)
        self.door = self._hook.door
        self._symptoms = symptoms(self._hook)
        # Last, so that nobody watches who is made by half.
        self._hook.watchers.append(self)
        logbook.not_checked = self._hook.not_checked

    @property
    def withhold(self):
        """Which updates are left out once a gradient is not finite."""
        return LEFT_OUT[self._on_nonfinite]

    @property
    def has_histograms(self):
        """Whether the elements of each gradient are to be counted."""
        return self._logbook.outbox.has_histograms

    @property
    def is_on(self):
        """Whether the guard still watches."""
        return self._hook is not None and self.door.is_open

    def begin_epoch(self):
        """Starts the mean of the norms anew; looks for bad steps again."""
        if self.is_on and self._hook.probe is not None:
            with self.door.guarded():
                self._hook.probe.tally.begin()
                if self._is_latched and self._symptoms.may_rearm():
                    self._hook.probe.rearm()
                    self._is_latched = False

    def expect_step(self, is_due):
        """Lets the next call of the train function be guarded.

        Args:
            is_due: Whether its numbers are to be recorded.
        """
        if self._hook is None:
            return
        if self.door.is_open:
            with self.door:
                if not self._first.has_begun:
                    self._first.begin(self._hook)
                self._hook.guard_next(is_due)
        if not self.door.is_open:
            with self.door:
                self._hook.run_on()

    def finish(self):
        """Leaves the model as it was and closes the event file."""
        hook, self._hook, self._evidence = self._hook, None, None
        if hook is not None:
            with self.door.guarded():
                hook.undo(self)
            with self.door.guarded():
                self._logbook.close()

    def see_gradients(self, variables, gradients):
        """Checks a step's gradients before they are applied.

        Args:
            variables: The variables they belong to.
            gradients: `None` where the tape found no way, else anything.

        Returns:
            Whether the update is to be applied.

        Raises:
            GradientBreakError: If a gradient is missing and `on_break` is
                `"raise"`.
        """
        self._lost = ()
        proceed = True
        if self.is_on:
            with self.door.guarded():
                proceed = self._check(variables, gradients)
        return proceed

    def _check(self, variables, gradients):
        step = self._step(variables)
        missing = []
        for number, gradient in enumerate(gradients):
            if gradient is None:
                self._logbook.lose(variables[number], step.paths[number])
                if not self._expected.covers(step.paths[number]):
                    missing.append(number)
        all_lost = all(gradient is None for gradient in gradients)
        quiet = all_lost and self._on_break != "stop"
        found = self._connection.explain(step, missing, all_lost, quiet)
        if all_lost and self._on_break != "stop":
            # Keras raises now, and `see_apply_error` says why.
            self._lost = found
            return True
        self._response.act(found)
        return not all_lost or not found

    def see_apply_error(self, error, variables, unknown):
        """Raises the diagnosis in place of Keras' word on no gradient.

        Args:
            error: The ValueError of the optimizer.
            variables: What it was given.
            unknown: Those that it does not know.
        """
        with self.door.guarded():
            if self._lost:
                raise self._response.error(self._lost, str(error)) from error
            if unknown and self.is_on:
                found = unknown_findings(self._step(variables), unknown)
                found = self._response.add_broken(
                    found, "error", quiet=True, is_fatal=True
                )
                add_notes(error, found)

    def see_step_error(self, error):
        """Adds the diagnosis to an exception that is about gradients."""
        if not self.is_on or isinstance(error, FINDINGS):
            return
        with self.door.guarded(), self._looking():
            step = self._step(self._model.trainable_variables)
            self._lost = self._response.add_broken(
                explain_error(step, error), "error", True, is_fatal=True
            )
            add_notes(error, self._lost)

    def see_failure(self, error):
        """Takes leave as an exception passes; what is known is on disk."""
        with self.door.guarded():
            if isinstance(error, GradientBreakError):
                self._logbook.keep(error.report.diagnoses)
            elif self.is_on and is_backward_crash(error):
                with self._looking():
                    self._explain_crash()
            add_notes(error, self._lost)
        self.finish()

    def keep(self, diagnoses):
        """Keeps what a `GradGuardLoss` has found; returns the alarms of it."""
        with self.door.guarded():
            diagnoses = self._response.keep(diagnoses)
        return diagnoses

    def _explain_crash(self):
        """A Python function that is cut inside can crash the backward pass."""
        step = self._step(self._model.trainable_variables)
        findings = explain_zero(step, range(len(step.variables)))
        findings = [f for f in findings if f.op == "EagerPyFunc"]
        self._lost = self._response.add_broken(
            findings, "error", quiet=True, is_fatal=True
        )

    def after_step(self):
        """Explains a step whose gradient is not finite, and acts on it."""
        if self._hook is None or self._is_latched or not self.door.is_open:
            return
        with self.door:
            if self._hook.latch() is not None:
                with self._looking():
                    self._look_at_bad_step()

    def _look_at_bad_step(self):
        found, severity, step = self._symptoms.bad_step()
        self._is_latched = self._on_nonfinite != "skip"
        if not self._is_latched:
            # What was kept of the step others may still have to read.
            self._hook.probe.latch.clear()
        quiet = self._on_nonfinite == "raise"
        found = self._response.add(found, severity, quiet, step)
        self._response.act(found, self._on_nonfinite)

    def record(self, check_first=False):
        """Reads the last step's numbers, writes them and looks at them.

        Args:
            check_first: Whether to ask if a gradient of exactly zero, or one
                that the step drops, hides a cut.
        """
        if not self.is_on:
            return
        with self.door.guarded():
            self._logbook.see_optimizers(
                self._hook.probe.captures.named(), self._hook.num_replicas
            )
            measured = self._hook.probe.read()
            figures = self._logbook.record(measured)
            if self.has_histograms:
                found = self._hook.probe.captures.histograms()
                self._logbook.record_histograms(measured, found)
            if check_first:
                with self._looking():
                    self._look_at_first_record(measured)
            with Drawing(self._hook.is_drawn_elsewhere):
                self._look_at_figures(figures)

    def _look_at_first_record(self, measured):
        self._first.look(self._hook, self._symptoms, self._step)
        graph = self._hook.graph
        for findings, severity in hidden_cuts(
            self._step, measured, self._logbook, self._expected, graph
        ):
            self._response.act(self._response.add_broken(findings, severity))
        # A trace takes room; later steps seldom ask for it.
        self._evidence = None

    def _look_at_figures(self, figures):
        for finding in self._symptoms.of_record(figures):
            everything = self._model.trainable_variables
            severity = severity_of(len(finding.variables), len(everything))
            if finding.cause == "falling_scale":
                # Between the steps that it skips a model still learns.
                severity = "warning"
            self._response.act(self._response.add_broken([finding], severity))

    def _looking(self):
        """A block in which the step may be run, or traced, once more."""
        return looking(self._hook.is_drawn_elsewhere)

    def _step(self, variables):
        data = self._hook.data_here()
        if self._evidence is None or self._evidence.data is not data:
            self._evidence = step_evidence(self._model, data)
        return Step(
            self._model,
            data,
            tuple(variables),
            self._logbook.paths_of(variables),
            self._evidence,
            self._hook.answers,
        )
