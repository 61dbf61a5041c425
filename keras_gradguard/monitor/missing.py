"""Which gradients are missing, and why; each set is explained once."""

import dataclasses
import warnings
from dataclasses import replace

from keras_gradguard.diagnosis.addends import Verdicts, explain_addends
from keras_gradguard.diagnosis.hidden_losses import explain_terms, reaches_of
from keras_gradguard.diagnosis.jumps import holds_condition
from keras_gradguard.diagnosis.nonfinite import nonfinite_findings
from keras_gradguard.diagnosis.questions import explain_missing
from keras_gradguard.graph.ops import Graph
from keras_gradguard.graph.trace import Trace
from keras_gradguard.measure.rows import unique_paths
from keras_gradguard.model.layers import runs_eagerly
from keras_gradguard.records.finding import Finding
from keras_gradguard.records.kinds import severity_of

# A step whose missing gradients differ from batch to batch is explained a
# few times and then left alone.
_MOST_EXPLANATIONS = 20


class MissingGradients:
    """Explains the missing gradients of one training.

    Args:
        response: The `Response` that findings are told to.
        logbook: The `TrainingLog`, told which loss reaches which variable.
        expected: The `Expected` variables without a gradient.
        looking: Makes the block in which a step is looked at.

    Attributes:
        notes: Findings that break nothing, to be told once the first batch
            has run.
        reaches: A `LossReach` for each term of the loss, in the order of
            the model's variables; empty if the step could not be traced,
            `None` if the loss has one term, or was not looked at.
        may_jump: Whether a loss of an eager step may jump: `False` if its
            trace shows no condition of the user's in any.
        addends: The `Verdicts` on the addends of the loss, `None` if
            there was no trace to look at.
    """

    def __init__(self, response, logbook, expected, looking):
        self.notes = []
        self.reaches, self.may_jump = None, True
        self.addends = None
        self._response = response
        self._logbook = logbook
        self._expected = expected
        self._looking = looking
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
            with self._looking():
                found = self._find(step, missing, all_lost, quiet)
            self._explained[key] = found
        return self._explained[key]

    def _find(self, step, missing, all_lost, quiet):
        findings, left_out = [], ()
        if missing:
            findings += step.answer(explain_missing, tuple(missing))
        if not self._terms_checked and not all_lost:
            self._terms_checked = True
            # A loss may train nothing while another term hides it.
            terms, reaches, self.may_jump, self.addends = step.answer(_terms_of)
            self.notes += [n for n in terms.notes if not n.variables]
            self.notes += self._expected.strip(terms.notes)
            findings += self._expected.strip(terms.findings)
            left_out = self._expected.strip(terms.left_out)
            self._see_reaches(step, reaches)
        lost = {path for finding in findings for path in finding.variables}
        severity = severity_of(len(lost), len(step.paths))
        found = self._response.add_broken(findings, severity, quiet, all_lost)
        return found + self._response.add_broken(left_out, "warning", quiet)

    def without_expected(self, findings):
        """Takes the variables that are expected out of findings."""
        return self._expected.strip(findings)

    def _see_reaches(self, step, found):
        if found is None:
            return
        if len(found) != 1:
            self.reaches = found
        variables = step.model.trainable_variables
        self._logbook.reach(self._logbook.paths_of(variables), found)


def _terms_of(step):
    """Returns what is asked of the trace of a step that is not all cut.

    Returns:
        `(losses, reaches, may_jump, addends)`: its `HiddenLosses`; the
        `LossReach`es, `None` without a trace; whether a loss of an eager step
        may jump; the `Verdicts` on its addends, `None` without a trace.
    """
    terms, variables = explain_terms(step), step.model.trainable_variables
    if terms.trace is None:
        return terms, None, True, None
    whole = dataclasses.replace(
        step, variables=tuple(variables), paths=unique_paths(variables)
    )
    is_whole = terms.trace.error is None
    found = reaches_of(whole, terms.trace) if is_whole else []
    is_asked = is_whole and runs_eagerly(step.model)
    may_jump = not is_asked or holds_condition(terms.trace.graph)
    addends = explain_addends(whole, terms.trace) if is_whole else None
    if terms.trace.error is not None and terms.notes:
        # A Python `if` on a tensor is no reason to run the step once more.
        addends = Verdicts()
    # A trace takes as much room as the step itself.
    terms = dataclasses.replace(terms, trace=None)
    return terms, found, may_jump, addends


_UNSEEN = (
    "this step ran as it was traced, or too late, to be looked at: enter "
    "`watch` before the first call of the step to have the line"
)
_LATER = "a custom loop cannot be run once more, so the line is not known"
_NOTHING = (
    "watch({name}) has seen no update of the model's variables, so nothing "
    "was measured and nothing was checked. {why}"
)
_TRACED = (
    "A @tf.function that was called before the block runs as it was traced "
    "then. Enter `watch` before the first call of the training step, or make "
    "the step anew inside the block: `step = tf.function(step.python_function)`"
)
_NO_OPTIMIZER = (
    "No Keras optimizer was found; pass yours: watch(model, optimizer=...)."
)


def nothing_seen():
    """Returns a `Trace` that answers no question."""
    return Trace(Graph(), error=LookupError())


class LoopMissingGradients(MissingGradients):
    """Explains missing gradients by what the loop has shown, if it has.

    Args:
        response: See `MissingGradients`.
        logbook: See `MissingGradients`.
        expected: See `MissingGradients`.
        looking: See `MissingGradients`.
    """

    def __init__(self, response, logbook, expected, looking):
        super().__init__(response, logbook, expected, looking)
        self._waiting = set()

    def explain_live(self, step, missing, quiet, may_wait):
        """Returns the diagnoses of a step's missing gradients.

        Args:
            step: The `Step`, nothing `seen` if it was not looked at.
            missing: See `explain`.
            quiet: See `explain`.
            may_wait: Whether another such step may show more.

        Returns:
            A tuple of `Diagnosis`, `None` if the next step is to be looked
            at.
        """
        key = tuple(step.paths[number] for number in missing)
        if step.evidence.seen is not None or key in self._explained:
            # Loss terms are asked for only where Keras knows the losses.
            return self.explain(step, missing, True, quiet)
        if may_wait and key not in self._waiting:
            self._waiting.add(key)
            return None
        finding = Finding(
            kind="disconnected",
            cause="unexplained",
            variables=key,
            notes=(_UNSEEN,),
            certainty="suspected",
        )
        severity = severity_of(len(key), len(step.paths))
        return self._response.add_broken([finding], severity, quiet)


def origins_of_nonfinite(step, measured, recorded=None):
    """Returns the `Finding`s of an update that is not finite.

    Args:
        step: The `Step`.
        measured: `(variables, statistics)` of each optimizer.
        recorded: The `Trace` of the eager step, if it was looked at.
    """
    bad = {
        id(variable)
        for variables, figures in measured
        for variable, row in zip(variables, figures, strict=True)
        if row[-1] > 0
    }
    named = zip(step.variables, step.paths, strict=True)
    paths = tuple(path for variable, path in named if id(variable) in bad)
    if recorded is not None:
        found = nonfinite_findings(
            recorded, step.variables, step.paths, step.model
        )
        if found:
            return [replace(finding, variables=paths) for finding in found]
    return [
        Finding(
            kind="nonfinite",
            cause="unexplained",
            variables=paths,
            notes=(_LATER,),
            certainty="suspected",
        )
    ]


def warn_of_nothing(model, has_optimizer):
    """Warns that a block has seen no update, and says how to mend that.

    Args:
        model: The model that was watched.
        has_optimizer: Whether there was any optimizer.
    """
    why = _TRACED if has_optimizer else _NO_OPTIMIZER
    warnings.warn(
        _NOTHING.format(name=model.name, why=why), UserWarning, stacklevel=4
    )
