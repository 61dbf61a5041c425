"""What a finding does: it is logged, warned of, raised, or it stops."""

import dataclasses

from keras_gradguard.errors import GradientBreakError, warn_of


class Response:
    """Acts on what is found in one training.

    Args:
        model: The model that trains.
        logbook: The `TrainingLog` to fill.
        on_break: `"warn"`, `"raise"` or `"stop"`.
        expected: The `Expected` breaks, which are kept without a warning.

    Attributes:
        is_silent: Whether to warn of nothing.
    """

    def __init__(self, model, logbook, on_break, expected):
        self._model = model
        self._logbook = logbook
        self._on_break = on_break
        self._expected = expected
        self.is_silent = False

    def add(self, findings, severity, quiet=False, step=None, is_fatal=False):
        """Keeps findings, and warns of new ones unless an exception tells.

        Args:
            findings: `Finding`s.
            severity: One of `records.SEVERITIES`.
            quiet: Whether to warn of none.
            step: Step that they are about; by default the one of now.
            is_fatal: Whether training ends by them, accepted or not.

        Returns:
            All of them that are not accepted, as a tuple of `Diagnosis`.
        """
        found = self._logbook.words(findings, severity, step)
        alarms = found
        if not is_fatal:
            found, alarms = self._expected.accept(found)
        fresh = self._logbook.keep(found)
        for diagnosis in () if quiet or self.is_silent else fresh:
            if diagnosis in alarms:
                warn_of(diagnosis)
        return alarms

    def add_broken(self, findings, severity, quiet=False, is_fatal=False):
        """As `add`, and silent where `on_break` raises them."""
        is_raised = self._on_break == "raise" and severity != "note"
        return self.add(
            findings, severity, quiet or is_raised, is_fatal=is_fatal
        )

    def keep(self, diagnoses):
        """Keeps what others found; returns what of it is not accepted."""
        found, alarms = self._expected.accept(diagnoses)
        self._logbook.keep(found)
        return alarms

    def act(self, found, action=None):
        """Raises or stops.

        Args:
            found: Diagnoses; without any nothing is done.
            action: By default `on_break`.

        Raises:
            GradientBreakError: If the action is `"raise"`.
        """
        action = action or self._on_break
        if found and action == "raise":
            self._logbook.flush()
            raise self.error(found)
        if found and action == "stop":
            self._model.stop_training = True

    def error(self, found, cause=None):
        """Returns the exception that tells of some diagnoses.

        Args:
            found: Diagnoses.
            cause: Text of the exception that it stands for, if any.
        """
        report = dataclasses.replace(self._logbook.report, diagnoses=found)
        return GradientBreakError(report, cause)


def add_notes(error, found):
    """Adds diagnoses to an exception that does not tell of them yet.

    Args:
        error: Any exception; a `GradientBreakError` has its own text.
        found: Diagnoses.
    """
    if isinstance(error, GradientBreakError):
        return
    known = "\n".join(getattr(error, "__notes__", ()))
    for diagnosis in found:
        if diagnosis.message not in known:
            error.add_note(f"\n{diagnosis}")
