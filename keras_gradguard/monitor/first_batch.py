"""What is asked once, of the first batch of a training."""

import keras
import tensorflow as tf

from keras_gradguard.backend import step_evidence
from keras_gradguard.backend.tensorflow.internals.variables import num_elements
from keras_gradguard.backend.tensorflow.tracing.reruns import has_loops
from keras_gradguard.diagnosis.hidden_losses import may_have_terms
from keras_gradguard.diagnosis.questions import explain_dropped, explain_zero
from keras_gradguard.diagnosis.untracked import (
    explain_frozen,
    explain_untracked,
)
from keras_gradguard.model.layers import is_default_step, state_of
from keras_gradguard.records.kinds import MOST_BYTES, severity_of

# Of the norms of the loss's terms: their key in `Step.answers`, and how many
# updates they hold for in a `fit` that begins later.
_NORMS, _MOST_UPDATES = "norms", 100


class FirstBatch:
    """Looks for jumps, and at which loss reaches which variable.

    Args:
        response: The `Response` that findings are told to.
        logbook: The `TrainingLog`.
        connection: The `MissingGradients`, which has looked before.

    Attributes:
        has_begun: Whether `begin` was called.
    """

    def __init__(self, response, logbook, connection):
        self._response = response
        self._logbook = logbook
        self._connection = connection
        self.has_begun = False
        self._weights, self._number = (), None

    def begin(self, hook):
        """Keeps the state before the first step, if it is to be asked of.

        Without it the terms of the loss are measured with the weights that
        the step has left behind.

        Args:
            hook: The hook of the model.
        """
        self.has_begun = True
        model = hook.model
        if (
            not model.built
            or model.steps_per_execution > 1
            or not may_have_terms(model)
            or _size_of(model) > MOST_BYTES
        ):
            return
        self._number = self._logbook.now()
        self._weights = tuple(
            (variable, keras.ops.convert_to_numpy(variable))
            for variable in state_of(model)
        )

    def look(self, hook, symptoms, step_of):
        """Looks at the first batch, once it has run.

        Args:
            hook: The hook of the model.
            symptoms: The `Symptoms`.
            step_of: Makes the `Step` of some variables.
        """
        self._measure(hook, step_of)
        jumps = symptoms.jumps(self._connection.may_jump)
        self._response.add(jumps, "warning")
        # A measured jump says more of a Python `if` than that it is one.
        lines = {(j.place.file, j.place.line) for j in jumps}
        notes = [
            note
            for note in self._connection.notes
            if (note.place.file, note.place.line) not in lines
        ]
        self._response.add(notes, "note")
        has_updates = any(True for _ in hook.probe.captures)
        frozen = explain_frozen(hook.model, has_updates)
        self._response.add(frozen, "warning")

    def _measure(self, hook, step_of):
        weights, self._weights = self._weights, ()
        if hook.num_steps > hook.model.steps_per_execution:
            # The first record is that of a later step.
            weights = ()
        known, batch, model = self._connection.reaches, hook.batch(), hook.model
        if (
            known is None
            or batch is None
            or not is_default_step(model)
            or _size_of(model) > MOST_BYTES
        ):
            return
        number = self._number if weights else self._logbook.now()
        step = step_of(model.trainable_variables)
        found = hook.answers.get(_NORMS)
        if found is None or _is_old(found, number, model):
            evidence = step_evidence(model, batch)
            found = evidence.measured_reaches(
                step.variables, known, weights, number
            )
            hook.answers[_NORMS] = found
        self._logbook.reach(step.paths, found)


def _is_old(found, number, model):
    """Whether what an earlier `fit` has measured is measured once more.

    It takes as long as some ten steps, and a trace where the model has
    loops: more than all of a short `fit`.
    """
    steps = [reach.step for reach in found if reach.step is not None]
    return (
        bool(steps)
        and not has_loops(model)
        and number - max(steps) >= _MOST_UPDATES
    )


def _size_of(model):
    """Bytes of all that a forward pass reads."""
    return sum(
        num_elements(variable) * tf.as_dtype(variable.dtype).size
        for variable in state_of(model)
    )


def hidden_cuts(step_of, measured, logbook, expected, graph=None):
    """Looks for cuts behind zeros, and behind variables that are left out.

    Loops, branches and Python functions give zeros where they are cut; a
    step of the user's own may drop the variables without a gradient; and
    Keras does not know each variable that the step reads.

    Args:
        step_of: Makes the `Step` of some variables.
        measured: What `Probe.read` returns.
        logbook: The `TrainingLog`.
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
                logbook.lose(variable, path)
        found.append((findings, "warning"))
    return found
