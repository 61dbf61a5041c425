"""Which gradients are missing, and why; each set is explained once."""

import dataclasses

from keras_gradguard.diagnosis.addends import Verdicts, explain_addends
from keras_gradguard.diagnosis.hidden_losses import explain_terms, reaches_of
from keras_gradguard.diagnosis.jumps import holds_condition
from keras_gradguard.diagnosis.questions import (
    explain_dropped,
    explain_missing,
    explain_zero,
)
from keras_gradguard.diagnosis.underflow import unscaled_findings
from keras_gradguard.diagnosis.untracked import explain_untracked
from keras_gradguard.measure.rows import unique_paths
from keras_gradguard.model.layers import runs_eagerly
from keras_gradguard.records.finding import Finding
from keras_gradguard.records.kinds import severity_of

# A step whose missing gradients differ from batch to batch is explained a
# few times and then left alone.
_MOST_EXPLANATIONS = 20


# Keras goes on to ask whether a `loss` argument was forgotten in `compile`.
_KERAS_TOO = (
    'this is what Keras means by "Gradients do not exist for variables"; no '
    "`loss` argument is missing"
)
# There one is.
_WITHOUT_LOSS = ("output_without_loss", "loss_left_out")
_UNSEEN = (
    "this step ran from an earlier trace, or could not be inspected in time: "
    "enter `watch` before the first call of the step to get the line"
)


class MissingGradients:
    """Explains the missing gradients of one training.

    Args:
        hook: The hook of the training.
        response: The `Response` that findings are told to.
        log: The `TrainingLog`, told which loss reaches which variable.
        expected: The `Expected` variables without a gradient.

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

    def __init__(self, hook, response, log, expected):
        self.notes = []
        self.addends = None
        self.reaches, self.may_jump = None, True
        self._hook = hook
        self._response = response
        self._log = log
        self._expected = expected
        self._explained = {}
        self._has_waited = set()
        self._terms_checked = False

    def explain(self, step_of, paths, missing, is_refused, quiet):
        """Returns the diagnoses of a step's missing gradients.

        Args:
            step_of: Makes the `Step`.
            paths: The paths of its variables.
            missing: Numbers of the variables without a gradient, but for
                the expected ones.
            is_refused: Whether no variable has one.
            quiet: Whether an exception is going to tell of them.

        Returns:
            A tuple of `Diagnosis`; empty if the next step is to be looked
            at.
        """
        key = tuple(paths[number] for number in missing)
        if key not in self._explained:
            if len(self._explained) >= _MOST_EXPLANATIONS:
                return ()
            with self._hook.nothing_drawn():
                step = step_of()
                if missing and step.evidence.is_blind:
                    return self._unseen(step, key, is_refused, quiet)
                found = self._find(step, missing, is_refused, quiet)
            self._explained[key] = found
        return self._explained[key]

    def _unseen(self, step, paths, is_refused, quiet):
        """A step that was not looked at; the next one may be."""
        is_new = paths not in self._has_waited
        if is_new and not is_refused and self._hook.may_record_next():
            self._has_waited.add(paths)
            self._hook.record_next()
            return ()
        finding = Finding(
            kind="disconnected",
            cause="unexplained",
            variables=paths,
            notes=(_UNSEEN,),
            certainty="suspected",
        )
        severity = severity_of(len(paths), len(step.paths))
        return self._response.add_broken([finding], severity, quiet)

    def _find(self, step, missing, is_refused, quiet):
        findings, left_out, unscaled = [], (), []
        if missing:
            findings += step.answer(explain_missing, tuple(missing))
            if not is_refused:
                findings = _with_keras_words(findings)
        is_seen = step.evidence.seen is not None
        if not (self._terms_checked or is_refused or is_seen):
            self._terms_checked = True
            # A loss may train nothing while another term hides it.
            terms, reaches, self.may_jump, self.addends, unscaled = step.answer(
                _terms_of
            )
            self.notes += [n for n in terms.notes if not n.variables]
            self.notes += self._expected.strip(terms.notes)
            findings += self._expected.strip(terms.findings)
            left_out = self._expected.strip(terms.left_out)
            self._see_reaches(step, reaches)
        lost = {path for finding in findings for path in finding.variables}
        severity = severity_of(len(lost), len(step.paths))
        found = self._response.add_broken(findings, severity, quiet, is_refused)
        found += self._response.add_broken(unscaled, "error", quiet)
        return found + self._response.add_broken(left_out, "warning", quiet)

    def _see_reaches(self, step, found):
        if found is None:
            return
        if len(found) != 1:
            self.reaches = found
        variables = step.model.trainable_variables
        self._log.note_reaches(self._log.paths_of(variables), found)


def _with_keras_words(findings):
    """Answers the warning of Keras that follows, with the first finding."""
    for number, finding in enumerate(findings):
        if finding.cause not in _WITHOUT_LOSS:
            notes = (*finding.notes, _KERAS_TOO)
            findings[number] = dataclasses.replace(finding, notes=notes)
            break
    return findings


def _terms_of(step):
    """Returns what is asked of the trace of a step that is not all cut.

    Returns:
        `(losses, reaches, may_jump, addends, unscaled)`: `HiddenLosses`; the
        `LossReach`es, `None` without a trace; whether a loss of an eager step
        may jump; the `Verdicts` on its addends, `None` without a trace; the
        `Finding`s of a loss that is not scaled.
    """
    terms, variables = explain_terms(step), step.model.trainable_variables
    if terms.trace is None:
        return terms, None, True, None, []
    whole = dataclasses.replace(
        step, variables=tuple(variables), paths=unique_paths(variables)
    )
    is_whole = terms.trace.error is None
    found = reaches_of(whole, terms.trace) if is_whole else []
    is_asked = is_whole and runs_eagerly(step.model)
    may_jump = not is_asked or holds_condition(terms.trace.graph)
    addends = explain_addends(whole, terms.trace) if is_whole else None
    unscaled = unscaled_findings(whole, terms.trace) if is_whole else []
    if terms.trace.error is not None and terms.notes:
        # A Python `if` on a tensor is no reason to run the step once more.
        addends = Verdicts()
    # A trace takes as much room as the step itself.
    terms = dataclasses.replace(terms, trace=None)
    return terms, found, may_jump, addends, unscaled


def hidden_cuts(step_of, measured, log, expected, graph=None):
    """Looks for cuts behind zeros, and behind variables that are left out.

    Loops, branches and Python functions give zeros where they are cut; a
    step of the user's own may drop the variables without a gradient; and
    Keras does not know each variable that the step reads.

    Args:
        step_of: Makes the `Step` of some variables.
        measured: A record, see `TrainingLog.measure`.
        log: The `TrainingLog`.
        expected: The `Expected` variables without a gradient.
        graph: See `explain_untracked`.

    Returns:
        A list of `(findings, severity)`.
    """
    step, found = step_of(()), []
    untracked = expected.strip(step.answer(explain_untracked, graph))
    known = step.model.trainable_variables
    found.append((untracked, severity_of(0, len(known))))
    for variables, figures, *_ in measured:
        zeros = [n for n, row in enumerate(figures) if row[1] == 0]
        if zeros:
            step = step_of(variables)
            found_zero = step.answer(explain_zero, tuple(zeros))
            findings = expected.strip(found_zero)
            severity = severity_of(len(zeros), len(step.variables))
            found.append((findings, severity))
    applied = {id(v) for variables, *_ in measured for v in variables}
    dropped = [v for v in known if id(v) not in applied]
    if applied and dropped:
        step = step_of(dropped)
        findings = expected.strip(step.answer(explain_dropped))
        for variable, path in zip(dropped, step.paths, strict=True):
            if any(path in finding.variables for finding in findings):
                log.note_missing(variable, path)
        found.append((findings, "warning"))
    return found
