"""Step 6 of 6: the records of a run as a table, variables x steps."""

import dataclasses

import numpy as np

from keras_gradguard.cells import worst


@dataclasses.dataclass(frozen=True)
class Timeline:
    """The numbers of a run.

    Args:
        variables: A dict for each row, see `report.schema.Schema.text`.
        columns: Int array `[columns, 3]`: first and last step, and how many
            records are in it.
        norms: Float32 array `[columns, variables]` of cells.
        updates: The same of the norm of the update over that of the weight.
        global_norm: Float32 array `[columns]`.
    """

    variables: tuple[dict, ...]
    columns: np.ndarray
    norms: np.ndarray
    updates: np.ndarray
    global_norm: np.ndarray

    def between(self, first=None, last=None):
        """Returns the part between two steps, both included.

        Args:
            first: Step, or `None` for the start.
            last: Step, or `None` for the end.
        """
        kept = np.full(len(self.columns), True)
        if first is not None:
            kept &= self.columns[:, 1] >= first
        if last is not None:
            kept &= self.columns[:, 0] <= last
        names = ("columns", "norms", "updates", "global_norm")
        part = {name: getattr(self, name)[kept] for name in names}
        return dataclasses.replace(self, **part)

    def merged(self, most):
        """Returns the same in at most so many columns, each its worst.

        Args:
            most: Number of columns, at least 1.
        """
        number = len(self.columns)
        if number <= most:
            return self
        starts = np.arange(most) * number // most
        ends = np.append(starts[1:], number) - 1
        columns = np.stack(
            [
                self.columns[starts, 0],
                self.columns[ends, 1],
                np.add.reduceat(self.columns[:, 2], starts),
            ],
            axis=1,
        )
        return dataclasses.replace(
            self,
            columns=columns,
            norms=worst(self.norms, starts),
            updates=worst(self.updates, starts),
            global_norm=worst(self.global_norm, starts),
        )
