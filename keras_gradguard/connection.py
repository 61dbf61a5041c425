"""Step 4: which gradients are missing, and why; each set is asked once."""

from keras_gradguard.diagnosis import examine
from keras_gradguard.diagnosis.terms import explain_terms

# A step whose missing gradients differ from batch to batch is explained a
# few times and then left alone.
_MOST_EXPLANATIONS = 20


class Connection:
    """Explains the missing gradients of one training.

    Args:
        response: The `Response` that findings are told to.
        expected: The `Expected` variables without a gradient.

    Attributes:
        notes: Findings that break nothing, to be told once the first batch
            has run.
    """

    def __init__(self, response, expected):
        self.notes = []
        self._response = response
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
        findings = examine.explain_missing(step, missing) if missing else []
        if not self._terms_checked and not all_lost:
            self._terms_checked = True
            # A loss may train nothing while another term hides it.
            terms = explain_terms(step)
            self.notes += [f for f in terms if not f.variables]
            findings += self._expected.strip(f for f in terms if f.variables)
        lost = {path for finding in findings for path in finding.variables}
        severity = "error" if len(lost) == len(step.paths) else "warning"
        return self._response.add_broken(findings, severity, quiet, all_lost)
