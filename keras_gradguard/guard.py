"""Watches the steps of one training: checks, diagnoses, acts."""

import dataclasses
import re

import tensorflow as tf

from keras_gradguard.diagnosis import examine
from keras_gradguard.diagnosis.failed import explain_error
from keras_gradguard.diagnosis.terms import explain_terms
from keras_gradguard.diagnosis.ways import Step
from keras_gradguard.door import Door
from keras_gradguard.errors import GradientBreakError, warn_of
from keras_gradguard.hook import hook_of

# A step whose missing gradients differ from batch to batch is explained a
# few times and then left alone.
_MOST_EXPLANATIONS = 20


class Guard:
    """The watcher behind `GradHealthCallback`, for one training.

    Args:
        model: A compiled Keras model whose `train_function` is made.
        logbook: The `Logbook` to fill.
        on_break: `"warn"`, `"raise"` or `"stop"`.
        expected: The `Expected` variables without a gradient.
    """

    def __init__(self, model, logbook, on_break, expected):
        self._model = model
        self._logbook = logbook
        self._on_break = on_break
        self._expected = expected
        self._door = Door()
        self._explained = {}
        self._terms_checked = False
        self._lost = ()
        self._hook = hook_of(model)
        self._hook.watchers.append(self)

    @property
    def is_on(self):
        """Whether the guard still watches."""
        return self._hook is not None and self._door.is_open

    def expect_step(self):
        """Lets the next call of the train function be guarded."""
        if self.is_on:
            self._hook.guard_next()

    def finish(self):
        """Leaves the model as it was and closes the event file."""
        if self._hook is not None:
            self._hook.undo(self)
            self._hook = None
            with self._door.guarded():
                self._logbook.close()

    def see_gradients(self, variables, gradients):
        """Checks a step's gradients before they are applied.

        Args:
            variables: The variables they belong to.
            gradients: Tensors, `tf.IndexedSlices`, or `None` where the tape
                found no way.

        Returns:
            Whether the update is to be applied.

        Raises:
            GradientBreakError: If a gradient is missing and `on_break` is
                `"raise"`.
        """
        self._lost = ()
        proceed = True
        if self.is_on:
            with self._door.guarded():
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
        found = self._explain(step, missing, all_lost)
        if all_lost and self._on_break != "stop":
            # Keras raises now, and `see_apply_error` says why.
            self._lost = found
            return True
        self._act(found)
        return not all_lost or not found

    def _explain(self, step, missing, all_lost):
        key = tuple(step.paths[number] for number in missing)
        if key not in self._explained:
            if len(self._explained) >= _MOST_EXPLANATIONS:
                return ()
            self._explained[key] = self._find(step, missing, all_lost)
        return self._explained[key]

    def _find(self, step, missing, all_lost):
        findings = examine.explain_missing(step, missing) if missing else []
        notes = []
        if not self._terms_checked and not all_lost:
            self._terms_checked = True
            # A loss may train nothing while another term hides it.
            terms = explain_terms(step)
            notes = [finding for finding in terms if not finding.variables]
            findings += self._expected.strip(f for f in terms if f.variables)
        lost = {path for finding in findings for path in finding.variables}
        severity = "error" if len(lost) == len(step.paths) else "warning"
        self._add(notes, "note")
        quiet = all_lost and self._on_break != "stop"
        return self._add(findings, severity, quiet)

    def see_apply_error(self, error):
        """Raises the diagnosis in place of Keras' word on no gradient."""
        if self._lost:
            raise self._error(self._lost, str(error)) from error

    def see_step_error(self, error):
        """Adds the diagnosis to an exception that is about gradients."""
        if not self.is_on or isinstance(error, GradientBreakError):
            return
        with self._door.guarded():
            step = self._step(self._model.trainable_variables)
            self._lost = self._add(
                explain_error(step, error), "error", quiet=True
            )
            self._add_note(error)

    def see_failure(self, error):
        """Takes leave as an exception passes; what is known is on disk."""
        with self._door.guarded():
            if isinstance(error, GradientBreakError):
                self._logbook.keep(error.report.diagnoses)
            elif self.is_on and _is_backward_crash(error):
                self._explain_crash()
            self._add_note(error)
        self.finish()

    def keep(self, diagnoses):
        """Keeps what a `GradGuardLoss` has found in this training."""
        with self._door.guarded():
            self._logbook.keep(diagnoses)

    def _explain_crash(self):
        """A Python function that is cut inside can crash the backward pass."""
        step = self._step(self._model.trainable_variables)
        findings = examine.explain_zero(step, range(len(step.variables)))
        findings = [f for f in findings if f.op == "EagerPyFunc"]
        self._lost = self._add(findings, "error", quiet=True)

    def _add_note(self, error):
        if isinstance(error, GradientBreakError):
            return
        known = "\n".join(getattr(error, "__notes__", ()))
        for diagnosis in self._lost:
            if diagnosis.message not in known:
                error.add_note(f"\n{diagnosis}")

    def record(self, check_first=False):
        """Reads the last step's norms and writes them.

        Args:
            check_first: Whether to ask if a gradient of exactly zero, or one
                that the step drops, hides a cut.
        """
        if not self.is_on:
            return
        with self._door.guarded():
            measured = [
                (capture.variables, capture.read())
                for capture in self._hook.captures.values()
            ]
            self._logbook.record(measured)
            for variables, norms in measured if check_first else ():
                zeros = [n for n, norm in enumerate(norms) if norm == 0]
                if zeros:
                    self._follow_zeros(variables, zeros)
            if check_first:
                self._follow_dropped(
                    [v for group, _ in measured for v in group]
                )

    def _follow_zeros(self, variables, zeros):
        step = self._step(variables)
        findings = self._expected.strip(examine.explain_zero(step, zeros))
        all_lost = len(zeros) == len(step.variables)
        severity = "error" if all_lost else "warning"
        self._act(self._add(findings, severity))

    def _follow_dropped(self, applied):
        ids = set(map(id, applied))
        known = self._model.trainable_variables
        dropped = [v for v in known if id(v) not in ids]
        if not applied or not dropped:
            return
        step = self._step(dropped)
        findings = self._expected.strip(examine.explain_dropped(step))
        for variable, path in zip(dropped, step.paths, strict=True):
            if any(path in finding.variables for finding in findings):
                self._logbook.lose(variable, path)
        self._act(self._add(findings, "warning"))

    def _step(self, variables):
        return Step(
            self._model,
            self._hook.data,
            tuple(variables),
            self._logbook.paths_of(variables),
        )

    def _add(self, findings, severity, quiet=False):
        """Keeps findings; warns of new ones unless an exception tells."""
        found, fresh = self._logbook.add(findings, severity)
        is_raised = self._on_break == "raise" and severity != "note"
        for diagnosis in () if quiet or is_raised else fresh:
            warn_of(diagnosis)
        return found

    def _act(self, found):
        if not found:
            return
        if self._on_break == "raise":
            raise self._error(found)
        if self._on_break == "stop":
            self._model.stop_training = True

    def _error(self, found, cause=None):
        report = dataclasses.replace(self._logbook.report, diagnoses=found)
        return GradientBreakError(report, cause)


def _is_backward_crash(error):
    """Whether a gradient op was handed a gradient of the wrong shape."""
    is_shape = isinstance(error, tf.errors.InvalidArgumentError)
    return is_shape and re.search("gradient_tape|Grad", str(error)) is not None
