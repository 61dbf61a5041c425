"""Step 4: what is said of the steps that a custom loop has not shown."""

import warnings
from dataclasses import replace

from keras_gradguard.connection import Connection
from keras_gradguard.diagnosis import internals
from keras_gradguard.diagnosis.nonfinite import nonfinite_findings
from keras_gradguard.diagnosis.seen import Trace
from keras_gradguard.finding import Finding

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
    graph = internals.new_graph("gradguard_unseen")
    return Trace(graph, error=LookupError())


class LoopConnection(Connection):
    """Explains missing gradients by what the loop has shown, if it has.

    Args:
        response: See `Connection`.
        logbook: See `Connection`.
        expected: See `Connection`.
    """

    def __init__(self, response, logbook, expected):
        super().__init__(response, logbook, expected)
        self._waiting = set()

    def explain_live(self, step, missing, quiet, may_wait):
        """Returns the diagnoses of a step's missing gradients.

        Args:
            step: The `Step`, its trace `None` if it was not looked at.
            missing: See `explain`.
            quiet: See `explain`.
            may_wait: Whether another such step may show more.

        Returns:
            A tuple of `Diagnosis`, `None` if the next step is to be looked
            at.
        """
        key = tuple(step.paths[number] for number in missing)
        if step.trace is not None or key in self._explained:
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
        severity = "error" if len(key) == len(step.paths) else "warning"
        return self._response.add_broken([finding], severity, quiet)


def origins_of_nonfinite(step, measured, recording=None):
    """Returns the `Finding`s of an update that is not finite.

    Args:
        step: The `Step`.
        measured: `(variables, statistics)` of each optimizer.
        recording: The `Recording` of the eager step, if it was looked at.
    """
    bad = {
        id(variable)
        for variables, figures in measured
        for variable, row in zip(variables, figures, strict=True)
        if row[-1] > 0
    }
    named = zip(step.variables, step.paths, strict=True)
    paths = tuple(path for variable, path in named if id(variable) in bad)
    if recording is not None and recording.ops:
        found = nonfinite_findings(
            recording, step.variables, step.paths, step.model
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
