"""What is asked once, of the first batch of a training."""

import keras

from keras_gradguard.backend import step_evidence
from keras_gradguard.diagnosis.hidden_losses import may_have_terms
from keras_gradguard.diagnosis.untracked import explain_frozen
from keras_gradguard.model.layers import is_default_step, state_of
from keras_gradguard.monitor.missing import hidden_cuts
from keras_gradguard.records.kinds import MOST_BYTES, severity_of

# Of the norms of the loss's terms: their key in `Step.answers`, and how many
# updates they hold for in a `fit` that begins later.
_NORMS, _MOST_UPDATES = "norms", 100


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
        self._measure(step_of)
        jumps = symptoms.jumps(self._missing.may_jump)
        self._response.add(jumps, "warning")
        # A measured jump says more of a Python `if` than that it is one.
        lines = {(j.place.file, j.place.line) for j in jumps}
        notes = [
            note
            for note in self._missing.notes
            if (note.place.file, note.place.line) not in lines
        ]
        self._response.add(notes, "note")
        has_updates = bool(measured)
        frozen = explain_frozen(self._model, has_updates)
        self._response.add(frozen, "warning")
        explained, graph = set(), self._hook.graph
        for findings, severity in hidden_cuts(
            step_of, measured, self._log, self._expected, graph
        ):
            explained.update(path for f in findings for path in f.variables)
            self._response.act(self._response.add_broken(findings, severity))
        zero = self._zero(measured, explained)
        for finding in symptoms.always_zero(zero):
            everything = self._model.trainable_variables
            severity = severity_of(len(finding.variables), len(everything))
            self._response.act(self._response.add_broken([finding], severity))

    def _zero(self, measured, explained):
        """The paths whose gradient is exactly zero, and not explained."""
        zero = []
        for variables, figures, *_ in measured:
            paths = self._log.paths_of(variables)
            zero += [
                path
                for path, row in zip(paths, figures, strict=True)
                if row[1] == 0
                and path not in explained
                and not self._expected.covers(path)
            ]
        return list(dict.fromkeys(zero))

    def _measure(self, step_of):
        weights, self._weights = self._weights, ()
        hook, model = self._hook, self._model
        known, batch = self._missing.reaches, hook.batch()
        if known is None or batch is None or not is_default_step(model):
            return
        if hook.num_steps > model.steps_per_execution:
            # The first record is that of a later step.
            weights = ()
        evidence = step_evidence(model, batch)
        if evidence.state_size() > MOST_BYTES:
            return
        number = self._number if weights else self._log.num_updates()
        step = step_of(model.trainable_variables)
        found = step.answers.get(_NORMS)
        if found is None or _is_old(found, number, evidence):
            found = evidence.measured_reaches(
                step.variables, known, weights, number
            )
            step.answers[_NORMS] = found
        self._log.note_reaches(step.paths, found)


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
