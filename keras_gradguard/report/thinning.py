"""Fewer records as a training gets long, and no spike lost."""

import dataclasses

import numpy as np

from keras_gradguard.records.norms import worst

# So many records are written one by one; then each window of 2, 4, 8 ...
# records is one, and the next so many windows are of the next size.
SINGLE = 2000
NEXT = 1000


@dataclasses.dataclass(frozen=True)
class Record:
    """The numbers of one or more recorded steps.

    Args:
        first_step: The first of the steps.
        step: The last of them.
        norms: Float array `[variables]` of norm values, see `records.norms`.
        updates: Float array `[variables]`: norm of the update over that of
            the weight, or `UNMEASURED`.
        global_norm: Norm over all gradients, a norm value.
        number: How many recorded steps it holds.
    """

    first_step: int
    step: int
    norms: np.ndarray
    updates: np.ndarray
    global_norm: float
    number: int = 1


class Window:
    """Merges records that follow each other, more and more of them."""

    def __init__(self):
        self._num_taken = 0
        self._pending = None

    @property
    def size(self):
        """How many records the present window holds when it is full."""
        if self._num_taken < SINGLE:
            return 1
        return 2 ** (1 + (self._num_taken - SINGLE) // NEXT)

    def add(self, record):
        """Takes in a record.

        Args:
            record: A `Record` of one step.

        Returns:
            The `Record` of a window that is full now, or `None`.
        """
        known = self._pending
        self._pending = record if known is None else _merged(known, record)
        return self.take() if self._pending.number >= self.size else None

    def take(self):
        """Returns what is pending, a `Record` or `None`."""
        taken, self._pending = self._pending, None
        self._num_taken += taken is not None
        return taken


def _merged(old, new):
    return Record(
        first_step=old.first_step,
        step=new.step,
        norms=worst([old.norms, new.norms])[0],
        updates=worst([old.updates, new.updates])[0],
        global_norm=float(worst([[old.global_norm], [new.global_norm]])[0, 0]),
        number=old.number + new.number,
    )
