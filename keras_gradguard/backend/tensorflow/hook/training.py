"""What the hook of a `fit` and that of a loop have in common.

`monitor.Monitor` is written against these names and those that both hooks
add: `probe`, `num_steps`, `answers`, `graph`, `batch()`, `evidence(variables)`,
`forget_evidence()`, `may_record_next()`, `record_next()`, `first_bad()`,
`bad_step()`, `stop()` and `undo(monitor)`.
"""

from keras_gradguard.backend.tensorflow.hook.running import num_replicas
from keras_gradguard.backend.tensorflow.internals.randomness import (
    Drawing,
    nothing_drawn,
)
from keras_gradguard.errors import FaultBarrier, fault_sentence


class TrainingHook:
    """Shows the updates of one training to its monitors.

    A monitor has

    - `check_gradients(variables, gradients, is_refused)` for an update that
      is to be made: a gradient is `None` where there is none, and anything
      else where there is one; the optimizer refuses an update without any.
      It returns whether the update is made.
    - `explain_apply_error(error, variables, unknown)` for a ValueError of the
      optimizer.
    - `explain_step_error(error)` for an exception in a step,
      `explain_failure(error)` for one that leaves the train function, and
      `finish()`.
    - `read()`, `explain_first_step()` and `after_step()`, which the hook of a
      loop calls by itself.
    - `note(diagnoses)` for what a `GradGuardLoss` has found; it returns those
      that are not accepted.
    - `withhold` and `has_histograms`, see `Probe`.

    Args:
        model: The Keras model that trains.
        is_drawn_elsewhere: Whether other threads may draw random numbers for
            the batches.

    Attributes:
        model: The model.
        monitors: The monitors.
        num_replicas: How many replicas train the model.
        barrier: The `FaultBarrier` of all that belongs to this training.
        not_checked: A list of what is to be said of faults, see `Report`.
        is_drawn_elsewhere: As given.
    """

    def __init__(self, model, is_drawn_elsewhere):
        self.model = model
        self.monitors = []
        self.num_replicas = num_replicas(model)
        self.barrier = FaultBarrier(self._note_fault)
        self.not_checked = []
        self.is_drawn_elsewhere = is_drawn_elsewhere

    @property
    def callbacks(self):
        """The callbacks of the `fit` that runs, a list; empty in a loop."""
        return []

    def recorded(self):
        """The eager step of a loop that is looked at, a `Trace` or `None`."""
        return None

    def attach(self, monitor):
        """Adds a monitor."""
        self.monitors.append(monitor)

    def note(self, diagnoses):
        """Gives diagnoses to each monitor; returns what none has accepted.

        Args:
            diagnoses: What a `GradGuardLoss` has found.
        """
        for monitor in self.monitors:
            diagnoses = monitor.note(diagnoses)
        return diagnoses

    def nothing_drawn(self):
        """A block in which the step may be run, or traced, once more."""
        return nothing_drawn(self.is_drawn_elsewhere)

    def drawing(self):
        """A block in which other threads may draw numbers."""
        return Drawing(self.is_drawn_elsewhere)

    def _note_fault(self, reason):
        self.not_checked.append(fault_sentence(self._progress(), reason))
        self._switch_off()
