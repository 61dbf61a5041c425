"""Step 4: which gradients are missing, and why; each set is asked once."""

import dataclasses

from keras_gradguard.diagnosis import examine
from keras_gradguard.diagnosis.reach import reaches_of
from keras_gradguard.diagnosis.terms import explain_terms
from keras_gradguard.measure import unique_paths

# A step whose missing gradients differ from batch to batch is explained a
# few times and then left alone.
_MOST_EXPLANATIONS = 20


class Connection:
    """Explains the missing gradients of one training.

    Args:
        response: The `Response` that findings are told to.
        logbook: The `Logbook`, told which loss reaches which variable.
        expected: The `Expected` variables without a gradient.

    Attributes:
        notes: Findings that break nothing, to be told once the first batch
            has run.
        reaches: A `LossReach` for each term of the loss, in the order of
            the model's variables; empty if the step could not be traced,
            `None` if the loss has one term, or was not looked at.
    """

    def __init__(self, response, logbook, expected):
        self.notes = []
        self.reaches = None
        self._response = response
        self._logbook = logbook
        self._expected = expected
        self._explained = {}
        self._terms_checked = False

    def explain(self, step, missing, all_lost, quiet):
        """Returns the diagnoses of a step's missing gradients.

        Args:
            step: The `Step`.
            missing: Numbers of the variables without a gradient, but for
                the expected ones.
            all_lost: Whether no variable has one.
            quiet: Whether an exception is going to tell of them.
        """
        key = tuple(step.paths[number] for number in missing)
        if key not in self._explained:
            if len(self._explained) >= _MOST_EXPLANATIONS:
                return ()
            self._explained[key] = self._find(step, missing, all_lost, quiet)
        return self._explained[key]

    def _find(self, step, missing, all_lost, quiet):
        findings, left_out = [], ()
        if missing:
            findings += step.answer(examine.explain_missing, tuple(missing))
        if not self._terms_checked and not all_lost:
            self._terms_checked = True
            # A loss may train nothing while another term hides it.
            terms, reaches = step.answer(_terms_of)
            self.notes += [n for n in terms.notes if not n.variables]
            self.notes += self._expected.strip(terms.notes)
            findings += self._expected.strip(terms.findings)
            left_out = self._expected.strip(terms.left_out)
            self._see_reaches(step, reaches)
        lost = {path for finding in findings for path in finding.variables}
        severity = "error" if len(lost) == len(step.paths) else "warning"
        found = self._response.add_broken(findings, severity, quiet, all_lost)
        return found + self._response.add_broken(left_out, "warning", quiet)

    def _see_reaches(self, step, found):
        if found is None:
            return
        if len(found) != 1:
            self.reaches = found
        variables = step.model.trainable_variables
        self._logbook.reach(self._logbook.paths_of(variables), found)


def _terms_of(step):
    """Returns the `Terms` of a step and its reaches, `None` without trace."""
    terms, variables = explain_terms(step), step.model.trainable_variables
    if terms.trace is None:
        return terms, None
    whole = dataclasses.replace(
        step, variables=tuple(variables), paths=unique_paths(variables)
    )
    is_whole = terms.trace.error is None
    found = reaches_of(whole, terms.trace) if is_whole else []
    # A trace takes as much room as the step itself.
    return dataclasses.replace(terms, trace=None), found
