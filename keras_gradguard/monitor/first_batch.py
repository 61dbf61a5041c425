"""What is asked once, of the first batch of a training."""

import keras
import tensorflow as tf

from keras_gradguard.backend import step_evidence
from keras_gradguard.backend.tensorflow.internals.variables import num_elements
from keras_gradguard.backend.tensorflow.tracing.reruns import has_loops
from keras_gradguard.diagnosis.addends import (
    Verdicts,
    explain_addends,
    may_be_cut,
    places_of,
    rows_with,
)
from keras_gradguard.diagnosis.hidden_losses import may_have_terms
from keras_gradguard.diagnosis.questions import explain_dropped, explain_zero
from keras_gradguard.diagnosis.shares import (
    explain_outside,
    measured,
    shares_of,
)
from keras_gradguard.model.layers import (
    is_default_step,
    runs_eagerly,
    state_of,
)
from keras_gradguard.records.kinds import MOST_BYTES, severity_of

# Of the norms of the loss's terms: their key in `Step.answers`, and how many
# updates they hold for in a `fit` that begins later.
_NORMS, _MOST_UPDATES = "norms", 100
# And the `Verdicts` on its addends, with the share of the loss that each is.
_ADDENDS = "addends"


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
        addends = self._addends(hook, step_of)
        self._measure(hook, step_of, addends.reaches)
        jumps = symptoms.jumps(self._connection.may_jump)
        # That a term trains nothing says more than that it jumps.
        jumps = [j for j in jumps if _line(j) not in addends.lines]
        self._response.add(jumps, "warning")
        # A measured jump says more of a Python `if` than that it is one.
        lines = set(map(_line, (*jumps, *addends.findings)))
        notes = [
            note for note in self._connection.notes if _line(note) not in lines
        ]
        self._response.add(notes, "note")
        found = self._connection.without_expected(addends.findings)
        self._response.act(self._response.add_broken(found, "warning"))

    def _addends(self, hook, step_of):
        """Returns the `Verdicts` on the addends of the loss."""
        found = hook.answers.get(_ADDENDS)
        if found is None:
            found = self._judged_addends(hook, step_of)
            hook.answers[_ADDENDS] = found
        return found.without(places_of(self._logbook.report.diagnoses))

    def _judged_addends(self, hook, step_of):
        step = step_of(hook.model.trainable_variables)
        found, batch = self._connection.addends, hook.batch()
        evidence = None
        if batch is not None and _size_of(hook.model) <= MOST_BYTES:
            evidence = step_evidence(hook.model, batch)
        if found is None and runs_eagerly(hook.model):
            found = evidence and explain_outside(step, evidence)
            return found or Verdicts()
        if found is None:
            found = _addends_of(hook, step)
        if not found.findings or evidence is None:
            return measured(found, {})
        recorded = evidence.recorded(self._weights_before(hook))
        return measured(found, shares_of(step, recorded, found))

    def _weights_before(self, hook):
        """The state before the step, `()` if the weights of now are to do."""
        # The first record may be that of a later step.
        is_first = hook.num_steps <= hook.model.steps_per_execution
        return self._weights if is_first else ()

    def _measure(self, hook, step_of, addends):
        weights, self._weights = self._weights_before(hook), ()
        known, batch, model = self._connection.reaches, hook.batch(), hook.model
        if (
            known is None
            or batch is None
            or not is_default_step(model)
            or _size_of(model) > MOST_BYTES
        ):
            if addends:
                paths = step_of(model.trainable_variables).paths
                self._logbook.reach(paths, rows_with(known or (), addends))
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
        self._logbook.reach(step.paths, rows_with(found, addends))


def _line(finding):
    return finding.place.file, finding.place.line


def _addends_of(hook, step):
    """Looks at the addends of a step of which there is no trace yet.

    A trace is made only where the graph that has run shows a need for it.
    """
    native = hook.graph and hook.graph()
    if native is None or not may_be_cut(step.evidence.adapted(native)):
        return Verdicts()
    trace = step.evidence.traced()
    return Verdicts() if trace.error else explain_addends(step, trace)


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


def hidden_cuts(step_of, measured, logbook, expected):
    """Looks for cuts behind zeros, and behind variables that are left out.

    Loops, branches and Python functions give zeros where they are cut; a
    step of the user's own may drop the variables without a gradient.

    Args:
        step_of: Makes the `Step` of some variables.
        measured: What `Probe.read` returns.
        logbook: The `TrainingLog`.
        expected: The `Expected` variables without a gradient.

    Returns:
        A list of `(findings, severity)`.
    """
    found = []
    for variables, figures, *_ in measured:
        zeros = [n for n, row in enumerate(figures) if row[1] == 0]
        if zeros:
            step = step_of(variables)
            found_zero = step.answer(explain_zero, tuple(zeros))
            findings = expected.strip(found_zero)
            severity = severity_of(len(zeros), len(step.variables))
            found.append((findings, severity))
    applied = {id(v) for variables, *_ in measured for v in variables}
    known = step_of(()).model.trainable_variables
    dropped = [v for v in known if id(v) not in applied]
    if applied and dropped:
        step = step_of(dropped)
        findings = expected.strip(step.answer(explain_dropped))
        for variable, path in zip(dropped, step.paths, strict=True):
            if any(path in finding.variables for finding in findings):
                logbook.lose(variable, path)
        found.append((findings, "warning"))
    return found
