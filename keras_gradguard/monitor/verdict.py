"""Which rows of a report are no break, and which are not decided yet.

A row that is not `ok` is part of a diagnosis, or it is accepted with a reason,
or it is not decided: then the report says what was seen so far, and when that
will do for a verdict.
"""

import collections
import dataclasses

from keras_gradguard.records.report import Undecided

EXPECTED = "expected"
_FOUND_FINE = "its op and its data were checked: nothing cuts the gradient"
_WAS_ALIVE = "it got a gradient in the previous record"
_ONE_BATCH = "on this one batch"


class RowVerdicts:
    """Decides about the rows of one training.

    Args:
        expected: The `Expected` variables without a gradient.
        symptoms: The `Symptoms`, `None` for a single batch.
        every: Steps between two records, or a function that decides.
    """

    def __init__(self, expected=None, symptoms=None, every=None):
        self._expected = expected
        self._symptoms = symptoms
        self._every = every if isinstance(every, int) else None

    def not_checked(self, rows, num_steps):
        """Returns why nothing was checked, a sentence, or `None`.

        Args:
            rows: A `VariableHealth` for each trainable variable.
            num_steps: How many steps are done, `None` outside of a training.
        """
        if num_steps is None:
            return None
        if not num_steps:
            return "No step has updated the model."
        if not rows:
            return "The model has no trainable variable."
        if all(row.status == "unknown" for row in rows):
            return (
                "No gradient was seen: no known optimizer has updated a "
                "variable of the model."
            )
        return None

    def decide(self, rows, diagnoses, step):
        """Returns the rows as a report shows them, and what is undecided.

        Args:
            rows: A `VariableHealth` for each.
            diagnoses: The `Diagnosis` values of the training.
            step: Step of the last record, or `None`.

        Returns:
            `(rows, undecided)`: tuples of `VariableHealth` and `Undecided`.
        """
        alarmed = _paths_of(diagnoses, lambda d: d.severity != "note")
        accepted = _paths_of(diagnoses, lambda d: d.severity == "note")
        lasting = {
            path: diagnosis.kind
            for diagnosis in diagnoses
            if diagnosis.kind in ("vanishing", "exploding")
            for path in diagnosis.variables
        }
        decided, groups = [], collections.defaultdict(list)
        for row in rows:
            if row.status == "ok":
                status = lasting.get(row.path, "ok")
                decided.append(dataclasses.replace(row, status=status))
                continue
            reason = None
            if row.path not in alarmed:
                reason = self._accepted(row, accepted)
                if reason is None:
                    groups[row.status, self._records(row)].append(row.path)
            decided.append(dataclasses.replace(row, accepted=reason))
        undecided = [
            Undecided(status, tuple(paths), self._text(status, records, step))
            for (status, records), paths in groups.items()
        ]
        return tuple(decided), tuple(undecided)

    def _accepted(self, row, accepted):
        if self._expected is not None and self._expected.covers(row.path):
            return EXPECTED
        if row.status == "missing" and row.path in accepted:
            return EXPECTED
        if row.status != "zero" or self._symptoms is None:
            return None
        if self._symptoms.has_looked_at(row.path):
            return _FOUND_FINE
        num_zero, num_seen = self._records(row)
        return _WAS_ALIVE if num_zero == 1 < num_seen else None

    def _records(self, row):
        """`(records in a row that were zero, records)` of a zero row."""
        if row.status != "zero" or self._symptoms is None:
            return None
        return self._symptoms.num_zero(row.path)

    def _text(self, status, records, step):
        if status == "zero":
            return self._zero_text(records, step)
        return {
            "missing": "got no gradient, in a step that was not explained",
            "nonfinite": "had a gradient with NaN or Inf in the last record, "
            "in a step that was not explained",
            "vanishing": "got a vanishing gradient",
            "exploding": "got an exploding gradient",
            "unknown": "not measured: no update was seen",
        }[status]

    def _zero_text(self, records, step):
        if records is None:
            return (
                f"got a gradient of exactly zero {_ONE_BATCH}; "
                "`GradHealthCallback` in `fit` shows whether it persists"
            )
        num_zero, num_seen = records
        patience = self._symptoms.patience
        if num_zero >= patience:
            return (
                f"got a gradient of exactly zero in the last {num_zero} "
                "records; the step could not be replayed to find the reason"
            )
        if num_zero == num_seen:
            seen = (
                f"all {num_seen} records" if num_seen > 1 else "the only record"
            )
        else:
            seen = f"the last {num_zero} records"
        when = ""
        if None not in (self._every, step):
            due = step + (patience - num_zero) * self._every
            when = f", that is, step {due} with every={self._every}"
        return (
            f"got a gradient of exactly zero in {seen}; a verdict needs "
            f"{patience} consecutive records{when}"
        )


def _paths_of(diagnoses, is_wanted):
    return {
        path
        for diagnosis in diagnoses
        if is_wanted(diagnosis)
        for path in diagnosis.variables
    }
