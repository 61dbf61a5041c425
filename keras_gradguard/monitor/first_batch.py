"""What is asked once, of the first batch of a training."""

import keras
import numpy as np

from keras_gradguard.backend import step_evidence
from keras_gradguard.diagnosis.addends import (
    Verdicts,
    explain_addends,
    may_be_cut,
    places_of,
    rows_with,
)
from keras_gradguard.diagnosis.hidden_losses import may_have_terms
from keras_gradguard.diagnosis.shares import (
    explain_outside,
    measured,
    shares_of,
)
from keras_gradguard.diagnosis.underflow import unscaled_findings
from keras_gradguard.diagnosis.untracked import explain_frozen
from keras_gradguard.diagnosis.zeros import holds_constant
from keras_gradguard.model.layers import (
    is_default_step,
    runs_eagerly,
    state_of,
)
from keras_gradguard.monitor.missing import hidden_cuts
from keras_gradguard.records.kinds import MOST_BYTES, severity_of

# Of the norms of the loss's terms: their key in `Step.answers`, and how many
# updates they hold for in a `fit` that begins later.
_NORMS, _MOST_UPDATES = "norms", 100
# And the `Verdicts` on its addends, with the share of the loss that each is.
_ADDENDS = "addends"
# The rounding error of a float32 sum that is zero is below it, with a margin
# for a large factor.
_ROUNDING = 1e-4


class FirstBatch:
    """Looks for hidden cuts and jumps, and which loss reaches which variable.

    Args:
        hook: The hook of the training.
        response: The `Response` that findings are told to.
        log: The `TrainingLog`.
        expected: The `Expected` variables without a gradient.
        missing: The `MissingGradients`, which has looked before.

    Attributes:
        has_begun: Whether `begin` was called.
    """

    def __init__(self, hook, response, log, expected, missing):
        self._hook = hook
        self._model = hook.model
        self._response = response
        self._log = log
        self._expected = expected
        self._missing = missing
        self.has_begun = False
        self._weights, self._number = (), None

    def begin(self):
        """Keeps the state before the first step, if it is to be asked of.

        Without it the terms of the loss are measured with the weights that
        the step has left behind.
        """
        self.has_begun = True
        model = self._model
        if (
            not model.built
            or model.steps_per_execution > 1
            or not may_have_terms(model)
            or step_evidence(model, None).state_size() > MOST_BYTES
        ):
            return
        self._number = self._log.num_updates()
        self._weights = tuple(
            (variable, keras.ops.convert_to_numpy(variable))
            for variable in state_of(model)
        )

    def explain(self, measured, symptoms, step_of):
        """Looks at the first batch, once it has run.

        Args:
            measured: Its record, see `TrainingLog.measure`.
            symptoms: The `Symptoms`.
            step_of: Makes the `Step` of some variables.
        """
        addends = self._addends(step_of)
        self._measure(step_of, addends.reaches)
        # That a line cuts a gradient says more than that it jumps.
        cut = places_of(self._log.report.diagnoses)
        told = addends.lines | {(file, line) for _, file, line in cut}
        jumps = symptoms.jumps(self._missing.may_jump, told)
        self._response.add(jumps, "warning")
        # A measured jump says more of a Python `if` than that it is one.
        lines = set(map(_line, (*jumps, *addends.findings)))
        notes = [
            note for note in self._missing.notes if _line(note) not in lines
        ]
        self._response.add(notes, "note")
        dead = self._expected.strip(addends.findings)
        self._response.act(self._response.add_broken(dead, "warning"))
        self._response.add(symptoms.uncounted(), "note")
        # A patch is tried on the step that was made last: no other comes
        # between a finding and its words.
        self._add_errors(symptoms.scalings())
        self._add_errors(self._unscaled(step_of))
        has_updates = bool(measured)
        frozen = explain_frozen(self._model, has_updates)
        self._response.add(frozen, "warning")
        explained, graph = set(), self._hook.graph
        for findings, severity in hidden_cuts(
            step_of, measured, self._log, self._expected, graph
        ):
            explained.update(path for f in findings for path in f.variables)
            self._response.act(self._response.add_broken(findings, severity))
        symptoms.note_explained(explained)
        zero = self._zero(measured, explained)
        if self._may_round(step_of, measured):
            zero = self._open(measured, explained)
        everything = self._model.trainable_variables
        symptoms.keep_zeros(zero)
        always = symptoms.always_zero(zero)
        known = {finding.cause for finding in always}
        for finding in always:
            severity = severity_of(len(finding.variables), len(everything))
            self._response.act(self._response.add_broken([finding], severity))
        zero = self._zero(measured, explained)
        for finding in symptoms.misfits(zero, known):
            if finding.certainty == "suspected":
                self._response.add([finding], "note")
                continue
            severity = "warning"
            if finding.kind == "zero":
                severity = severity_of(len(finding.variables), len(everything))
            self._response.act(self._response.add_broken([finding], severity))

    def _add_errors(self, findings):
        for finding in findings:
            self._response.act(self._response.add_broken([finding], "error"))

    def _unscaled(self, step_of):
        """A loop that forgets to scale its loss; of a `fit` it is known."""
        step = step_of(self._model.trainable_variables)
        seen = step.evidence.seen
        if seen is None or seen.error is not None:
            return []
        return unscaled_findings(step, seen, self._hook.optimizers)

    def _zero(self, measured, explained):
        """The paths whose gradient is exactly zero, and not explained."""
        return self._open(measured, explained, lambda row: row[1] == 0)

    def _open(self, measured, explained, is_asked=lambda row: True):
        """The paths of a record that are not explained yet."""
        found = []
        for variables, figures, *_ in measured:
            paths = self._log.paths_of(variables)
            found += [
                path
                for path, row in zip(paths, figures, strict=True)
                if is_asked(row)
                and path not in explained
                and not self._expected.covers(path)
            ]
        return list(dict.fromkeys(found))

    def _may_round(self, step_of, measured):
        """Whether a gradient may be zero by its formula, and no zero here.

        A graph shows it. An eager step is traced for it only where some
        gradient is as small as rounding.
        """
        step = step_of(self._model.trainable_variables)
        seen, graph = step.evidence.seen, self._hook.graph
        native = graph and graph()
        if seen is not None:
            return seen.error is None and holds_constant(seen.graph)
        if native is not None:
            return holds_constant(step.evidence.adapted(native))
        if not _has_rounding(measured):
            return False
        trace = step.evidence.traced()
        return trace.error is None and holds_constant(trace.graph)

    def _addends(self, step_of):
        """Returns the `Verdicts` on the addends of the loss."""
        answers = self._hook.answers
        found = answers.get(_ADDENDS)
        if found is None:
            found = self._judged_addends(step_of)
            answers[_ADDENDS] = found
        return found.without(places_of(self._log.report.diagnoses))

    def _judged_addends(self, step_of):
        step, model = step_of(self._model.trainable_variables), self._model
        seen = step.evidence.seen
        if seen is not None:
            return _addends_seen(step, seen)
        found, batch = self._missing.addends, self._hook.batch()
        evidence = None
        if batch is not None:
            evidence = step_evidence(model, batch)
            if evidence.state_size() > MOST_BYTES:
                evidence = None
        if found is None and runs_eagerly(model):
            found = evidence and explain_outside(step, evidence)
            return found or Verdicts()
        if found is None:
            found = _addends_of(step, self._hook.graph)
        if not found.findings or evidence is None:
            return measured(found, {})
        recorded = evidence.recorded(self._weights_before())
        return measured(found, shares_of(step, recorded, found))

    def _weights_before(self):
        """The state before the step, `()` if the weights of now are to do."""
        # The first record may be that of a later step.
        steps = self._model.steps_per_execution
        return self._weights if self._hook.num_steps <= steps else ()

    def _measure(self, step_of, addends):
        weights, self._weights = self._weights_before(), ()
        hook, model = self._hook, self._model
        known, batch = self._missing.reaches, hook.batch()
        evidence = None if batch is None else step_evidence(model, batch)
        if (
            known is None
            or evidence is None
            or not is_default_step(model)
            or evidence.state_size() > MOST_BYTES
        ):
            if addends:
                paths = step_of(model.trainable_variables).paths
                self._log.note_reaches(paths, rows_with(known or (), addends))
            return
        number = self._number if weights else self._log.num_updates()
        step = step_of(model.trainable_variables)
        found = step.answers.get(_NORMS)
        if found is None or _is_old(found, number, evidence):
            found = evidence.measured_reaches(
                step.variables, known, weights, number
            )
            step.answers[_NORMS] = found
        self._log.note_reaches(step.paths, rows_with(found, addends))


def _has_rounding(measured):
    """Whether some gradients are at the level of rounding errors."""
    largest = np.concatenate(
        [np.zeros([0]), *(figures[:, 1] for _, figures, *_ in measured)]
    )
    level = _ROUNDING * max(1.0, largest.max(initial=0.0))
    return bool(np.any((largest > 0) & (largest < level)))


def _line(finding):
    return finding.place.file, finding.place.line


def _addends_seen(step, trace):
    """Looks at the addends of a step of a loop, as far as it was seen."""
    if trace.error is not None:
        return Verdicts()
    found = explain_addends(step, trace, is_judged=False)
    return measured(found, shares_of(step, trace, found))


def _addends_of(step, graph):
    """Looks at the addends of a step of which there is no trace yet.

    A trace is made only where the graph that has run shows a need for it.
    """
    native = graph and graph()
    if native is None or not may_be_cut(step.evidence.adapted(native)):
        return Verdicts()
    trace = step.evidence.traced()
    return Verdicts() if trace.error else explain_addends(step, trace)


def _is_old(found, number, evidence):
    """Whether what an earlier `fit` has measured is measured once more.

    It takes as long as some ten steps, and a trace where the model has
    loops: more than all of a short `fit`.
    """
    steps = [reach.step for reach in found if reach.step is not None]
    return (
        bool(steps)
        and number - max(steps) >= _MOST_UPDATES
        and not evidence.has_loops()
    )
