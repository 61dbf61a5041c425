"""Conducts one training: what is measured, asked, said and done."""

import collections
import contextlib
import dataclasses

from keras_gradguard.diagnosis.failures import explain_error
from keras_gradguard.diagnosis.not_applied import (
    never_applied,
    unknown_findings,
)
from keras_gradguard.diagnosis.questions import explain_dropped, explain_zero
from keras_gradguard.errors import FINDINGS, GradientBreakError
from keras_gradguard.graph.trace import Step
from keras_gradguard.monitor.first_batch import FirstBatch
from keras_gradguard.monitor.missing import MissingGradients
from keras_gradguard.monitor.response import add_notes
from keras_gradguard.monitor.verdict import RowVerdicts
from keras_gradguard.records.kinds import severity_of

# Above this share of its steps, a training does not go on beside bad steps: it
# does not go on.
_MOST_SKIPPED = 0.5
LEFT_OUT = {"warn": None, "skip": "bad", "stop": "after", "raise": "after"}


@dataclasses.dataclass(frozen=True)
class _Progress:
    """How far a training has come that is over, see `TrainingLog`."""

    num_done: int
    num_skipped: int | None


class Monitor:
    """Watches one training: a `fit`, or the block of `watch`.

    What differs between the two is in the hook: when a record is due, what
    is seen of a step, and what is kept of a bad one.

    Args:
        hook: The hook of the training, see `hook.training`.
        log: The `TrainingLog` to fill.
        response: The `Response` to what is found.
        symptoms: The `Symptoms` of the training.
        bad_steps: Its `BadSteps`.
        expected: The `Expected` variables without a gradient and breaks.
        on_nonfinite: `"warn"`, `"raise"`, `"stop"` or `"skip"`.
        every: Steps between two records, or a function.
        log_norm: Whether `grad_norm` is to be in the logs of `fit`.

    Attributes:
        log_norm: See above.
        barrier: The `FaultBarrier` of all that watches this training.
    """

    def __init__(
        self,
        hook,
        log,
        response,
        symptoms,
        bad_steps,
        expected,
        on_nonfinite,
        every,
        log_norm=False,
    ):
        self.log_norm = log_norm
        self._hook = hook
        self._model = hook.model
        self._log = log
        log.patches.isolated = hook.nothing_drawn
        self._response = response
        self._symptoms = symptoms
        symptoms.may_ask = isinstance(every, int)
        self._bad_steps = bad_steps
        self._expected = expected
        self._on_nonfinite = on_nonfinite
        self._missing = MissingGradients(hook, response, log, expected)
        self._first = FirstBatch(hook, response, log, expected, self._missing)
        # Records that an exception has come before.
        self._waiting = collections.deque()
        # What a refused update lacks, until the optimizer raises.
        self._refused = ()
        self._has_bad = False
        # Updates before the step of the record of a `fit`.
        self._due_step = None
        self.barrier = hook.barrier
        log.verdicts = RowVerdicts(expected, symptoms, every)
        log.progress = hook
        not_checked = hook.not_checked
        # Last, so that nobody watches who is made by half.
        hook.attach(self)
        log.not_checked = not_checked

    @property
    def withhold(self):
        """Which updates are left out once a gradient is not finite."""
        return LEFT_OUT[self._on_nonfinite]

    @property
    def has_histograms(self):
        """Whether the elements of each gradient are to be counted."""
        return self._log.events.has_histograms

    @property
    def wants_next(self):
        """Whether the next step is to be recorded, due or not."""
        return self.is_on and self._symptoms.wants_next

    @property
    def is_on(self):
        """Whether the guard still watches."""
        return self._hook is not None and self.barrier.is_open

    def begin_epoch(self):
        """Starts the mean of the norms anew; looks for bad steps again."""
        if self.is_on and self._hook.probe is not None:
            with self.barrier.guarded():
                self._hook.probe.epoch_totals.begin()
                if self._has_bad and self._bad_steps.may_rearm():
                    self._hook.probe.rearm()
                    self._has_bad = False

    def expect_step(self, is_due):
        """Lets the next call of the train function be guarded.

        Args:
            is_due: Whether its numbers are to be recorded.
        """
        if self._hook is not None and self.barrier.is_open:
            if not self._first.has_begun:
                self._first.begin()
            if is_due:
                self._due_step = self._log.num_updates()
            self._hook.guard_next(is_due)

    def run_on(self):
        """After a fault: lets the step that was traced run once more."""
        if self._hook is not None:
            self._hook.run_on()

    def end(self):
        """Says what the records show of which there were too few."""
        if not self.is_on or self._hook.probe is None:
            return
        with self.barrier.guarded(), self._log.reading(self._log.step):
            with self._hook.nothing_drawn():
                found = self._symptoms.zero_so_far()
            self._response.add(found, "note", quiet=True)

    def finish(self, is_whole=False):
        """Leaves the model as it was, writes the verdict, closes the file.

        Args:
            is_whole: Whether the training has come to its end.
        """
        hook, self._hook = self._hook, None
        if hook is None:
            return
        # Ctrl-C in one of them must not keep the others from it.
        with contextlib.ExitStack() as last:
            for part, *given in (
                (self._log.close,),
                (self._log.write_verdict, is_whole),
                (hook.undo, self),
                (self._note_progress, hook),
            ):
                last.callback(self.barrier.call, part, *given)

    def _note_progress(self, hook):
        self._log.progress = _Progress(hook.num_done, hook.num_skipped)
        self._check_skipped(hook.num_done, hook.num_skipped)

    def _check_skipped(self, num_steps, num_skipped):
        """A training that leaves out most of its steps is broken."""
        # Ctrl-C may come between a step that is skipped and its count.
        is_any = num_steps and num_skipped
        if is_any and num_skipped > _MOST_SKIPPED * num_steps:
            share = num_skipped / num_steps
            note = (
                f"on_nonfinite='skip' skipped {num_skipped} of {num_steps} "
                f"steps ({share:.0%})"
            )
            self._response.warn(self._log.raise_to_error("nonfinite", note))

    def check_gradients(self, variables, gradients, is_refused):
        """Checks a step's gradients before they are applied.

        Args:
            variables: The variables they belong to.
            gradients: `None` where the tape found no way, else anything.
            is_refused: Whether the optimizer will raise, having no gradient.

        Returns:
            Whether the update is to be applied.

        Raises:
            GradientBreakError: If a gradient is missing and `on_break` is
                `"raise"`.
            LoopStopped: If it is `"stop"`, in a loop.
        """
        self._refused = ()
        proceed = True
        if self.is_on:
            with self.barrier.guarded():
                proceed = self._check(variables, gradients, is_refused)
        return proceed

    def _check(self, variables, gradients, is_refused):
        paths = self._log.paths_of(variables)
        missing = []
        for number, gradient in enumerate(gradients):
            if gradient is None:
                self._log.note_missing(variables[number], paths[number])
                if not self._expected.covers(paths[number]):
                    missing.append(number)

        def step_of():
            asked = [variables[number] for number in missing] or variables
            return self._step(variables, asked)

        # Keras raises now, and `explain_apply_error` says why.
        is_told_later = is_refused and self._response.on_break != "stop"
        found = self._missing.explain(
            step_of, paths, missing, is_refused, is_told_later
        )
        self._log.patches.forget()
        if is_told_later:
            self._refused = found
            return True
        self._response.act(found)
        return not is_refused or not found

    def explain_apply_error(self, error, variables, unknown):
        """Raises the diagnosis in place of Keras' word on no gradient.

        Args:
            error: The ValueError of the optimizer.
            variables: What it was given.
            unknown: Those that it does not know.
        """
        with self.barrier.guarded():
            if self._refused:
                found = self._response.error(self._refused, str(error))
                raise found from error
            if unknown and self.is_on:
                found = unknown_findings(self._step(variables), unknown)
                found = self._response.add_broken(
                    found, "error", quiet=True, is_fatal=True
                )
                add_notes(error, found)

    def explain_step_error(self, error):
        """Adds the diagnosis to an exception that is about gradients."""
        if not self.is_on or isinstance(error, FINDINGS):
            return
        with self.barrier.guarded(), self._hook.nothing_drawn():
            step = self._step(self._model.trainable_variables)
            self._refused = self._response.add_broken(
                explain_error(step, error), "error", True, is_fatal=True
            )
            add_notes(error, self._refused)

    def explain_failure(self, error):
        """Keeps and adds what is known of an exception that ends a training."""
        with self.barrier.guarded():
            if isinstance(error, GradientBreakError):
                self._log.note(error.report.diagnoses)
            elif self.is_on:
                step = self._step(self._model.trainable_variables)
                if step.evidence.is_backward_crash(error):
                    with self._hook.nothing_drawn():
                        self._explain_crash(step)
            add_notes(error, self._refused)

    def note(self, diagnoses):
        """Keeps what a `GradGuardLoss` has found; returns the alarms of it."""
        with self.barrier.guarded():
            diagnoses = self._response.note(diagnoses)
        return diagnoses

    def _explain_crash(self, step):
        """A Python function that is cut inside can crash the backward pass."""
        findings = explain_zero(step, range(len(step.variables)))
        findings = [f for f in findings if f.op == "EagerPyFunc"]
        self._refused = self._response.add_broken(
            findings, "error", quiet=True, is_fatal=True
        )

    def after_step(self):
        """Explains a step whose gradient is not finite, and acts on it."""
        if self._hook is None or self._has_bad or not self.barrier.is_open:
            return
        with self.barrier:
            if self._hook.first_bad() is not None:
                with self._hook.nothing_drawn():
                    self._explain_bad_step()

    def _explain_bad_step(self):
        kept = self._hook.bad_step()
        if self._bad_steps.dismiss(kept):
            self._hook.probe.first_bad.clear()
            return
        found, severity = self._bad_steps.explain(
            kept, self._symptoms.divergence_behind
        )
        found = self._symptoms.rates_behind(found, kept.step)
        self._has_bad = self._on_nonfinite != "skip"
        if not self._has_bad:
            # What was kept of the step others may still have to read.
            self._hook.probe.first_bad.clear()
        quiet = self._on_nonfinite == "raise"
        found = self._response.add(found, severity, quiet, kept.step)
        self._log.patches.forget()
        self._response.act(found, self._on_nonfinite)

    def read(self, is_first=False):
        """Reads the records that wait, writes them and looks at them.

        Args:
            is_first: Whether this is the first record of a `fit`: what is
                asked once is asked now.

        Raises:
            GradientBreakError: If something is wrong and is to be raised.
            LoopStopped: If it is to end the block of a loop.
        """
        if not self.is_on:
            return
        with self.barrier.guarded():
            for step, measured, figures in self._written():
                with self._log.reading(step):
                    if is_first:
                        with self._hook.nothing_drawn():
                            self._explain_first(measured)
                    with self._hook.drawing():
                        self._explain_figures(figures)

    def write(self):
        """Writes the records that wait, and looks at none of them."""
        if self.is_on:
            with self.barrier.guarded():
                collections.deque(self._written(), maxlen=0)

    def _written(self):
        """Writes what waits, and yields step, record and figures of each.

        What its caller leaves behind is written by the next call.
        """
        probe = self._hook.probe
        self._waiting.extend(probe.records())
        if self._waiting:
            self._log.note_optimizers(
                probe.named_captures(), self._hook.num_replicas
            )
        while self._waiting:
            step, measured = self._waiting.popleft()
            if step is None and self._due_step is not None:
                step = self._due_step + self._model.steps_per_execution - 1
            figures = self._log.record(measured, step)
            if self.has_histograms:
                self._log.record_histograms(measured, probe.histograms())
            yield step, measured, figures

    def explain_no_update(self):
        """Says why a loop that is over has made no update of the model.

        A loop may leave the optimizer out where no gradient is there.

        Returns:
            Whether something was found.
        """
        found = []
        with self.barrier.guarded():
            step = self._step(self._model.trainable_variables)
            if step.evidence.seen is not None:
                found = explain_dropped(step) or never_applied(
                    step, self._hook.recorded()
                )
                self._response.act(self._response.add_broken(found, "warning"))
        return bool(found)

    def explain_first_step(self):
        """Looks at the first step of a loop, which is over."""
        if self.is_on:
            with self.barrier.guarded(), self._log.reading(self._log.step):
                self._explain_first(self._hook.probe.latest())

    def _explain_first(self, measured):
        self._first.explain(measured, self._symptoms, self._step)
        # A trace takes room; later steps seldom ask for it.
        self._hook.forget_evidence()
        self._log.patches.forget()

    def _explain_figures(self, figures):
        for finding in self._symptoms.explain(figures):
            everything = self._model.trainable_variables
            severity = severity_of(len(finding.variables), len(everything))
            if finding.cause == "falling_scale":
                # Between the steps that it skips a model still learns.
                severity = "warning"
            if finding.cause == "left_out":
                self._response.add([finding], "note")
                continue
            self._response.act(self._response.add_broken([finding], severity))
        self._log.patches.forget()

    def _step(self, variables, asked=None):
        evidence = self._hook.evidence(variables if asked is None else asked)
        step = Step(
            self._model,
            evidence.data,
            tuple(variables),
            self._log.paths_of(variables),
            evidence,
            self._hook.answers,
        )
        self._log.patches.step, self._log.patches.weights = step, ()
        return step
