"""Step 3 of 5: the rows of a report, made when somebody asks for them."""

import dataclasses

import numpy as np

from keras_gradguard import measure
from keras_gradguard.capture import MISSING
from keras_gradguard.cells import UNMEASURED


@dataclasses.dataclass
class _Taken:
    """What one optimizer's last record has shown, and whether it is rows."""

    variables: tuple
    paths: tuple
    statistics: np.ndarray
    updates: np.ndarray | None
    step: int | None
    is_done: bool = False


class Ledger:
    """Holds the rows of the variables of one training.

    A record of each step would make as many rows as there are variables,
    which nobody may ever look at. So the arrays are kept, and become rows
    once they are asked for.
    """

    def __init__(self):
        # By path, then by the name of the update; `None` for one by itself.
        self._rows = {}
        self._taken, self._laid = {}, {}
        self._places = self._sorted = None

    @property
    def order(self):
        """The place of each path among the rows, a dict."""
        return self._layout()[1]

    @property
    def layout(self):
        """What stays the same object as long as the rows are those of it."""
        return self._layout()[0]

    def has_in_order(self, paths):
        """Returns whether paths are in the order of the rows.

        Args:
            paths: A tuple; the same object is looked at once.
        """
        known = (paths, self.layout)
        if self._sorted is None or any(
            a is not b for a, b in zip(known, self._sorted, strict=True)
        ):
            places = [self.order[path] for path in paths]
            if sorted(set(places)) != places:
                return False
            self._sorted = known
        return True

    def expect(self, variable, path):
        """Has a row for a variable that may not be measured yet."""
        if path not in self._rows:
            self._rows[path] = {None: measure.health(variable, path)}
            self._places = None

    def lose(self, variable, path, step):
        """Notes that a variable gets no gradient."""
        self._fill()
        row = measure.health(variable, path, MISSING, step)
        self._rows[path] = {None: row}
        # It takes the place of the rows of its variable.
        self._laid.clear()
        self._places = None

    def take(self, name, variables, paths, statistics, updates, step):
        """Takes in what one optimizer's record has shown.

        Args:
            name: Its name, see `VariableHealth.optimizer`.
            variables: The variables that were measured.
            paths: Their paths.
            statistics: See `statistics.statistics`.
            updates: See `UpdateCapture.value`, or `None`.
            step: The step.
        """
        if self._laid.get(name) is not paths:
            self._fill()
            self._lay(name, paths)
        self._taken[name] = _Taken(variables, paths, statistics, updates, step)

    def _lay(self, name, paths):
        """Makes room for the rows of one optimizer."""
        self._laid[name] = paths
        for path in paths:
            rows = self._rows.setdefault(path, {})
            if name not in rows:
                rows.pop(None, None)
                rows[name] = None
                self._places = None

    def rows(self):
        """Returns a `VariableHealth` of each variable or update of it."""
        self._fill()
        return tuple(
            row if len(rows) == 1 else dataclasses.replace(row, optimizer=n)
            for rows in self._rows.values()
            for n, row in rows.items()
        )

    def cells(self, step):
        """Returns the norms and the update ratios of one step, two arrays.

        Their elements are in the order of the rows, `UNMEASURED` where that
        step has not measured them.

        Args:
            step: The step.
        """
        places = self._layout()[2]
        norms = np.full(len(places), UNMEASURED, np.float32)
        ratios = norms.copy()
        for name, taken in self._taken.items():
            if taken.step == step:
                own = [places[path, name] for path in taken.paths]
                norms[own] = taken.statistics[:, 0]
                if taken.updates is not None:
                    is_there = taken.statistics[:, 0] != MISSING
                    found = taken.updates[:, 0]
                    ratios[own] = np.where(is_there, found, UNMEASURED)
        return norms, ratios

    def _layout(self):
        if self._places is None:
            keys = [(p, n) for p, rows in self._rows.items() for n in rows]
            places = {key: number for number, key in enumerate(keys)}
            order = {path: number for number, path in enumerate(self._rows)}
            self._places = object(), order, places
        return self._places

    def _fill(self):
        """Makes rows of what was taken."""
        for name, taken in self._taken.items():
            if taken.is_done:
                continue
            taken.is_done = True
            for number, path in enumerate(taken.paths):
                ratio = taken.updates
                self._rows[path][name] = measure.health(
                    taken.variables[number],
                    path,
                    taken.statistics[number],
                    taken.step,
                    None if ratio is None else ratio[number][0],
                )
