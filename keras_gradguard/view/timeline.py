"""The records of a run as a table, variables x steps."""

import dataclasses

import numpy as np

from keras_gradguard.records.norms import UNMEASURED, worst
from keras_gradguard.report.layout import RECORD, SCHEMA, WINDOW
from keras_gradguard.view.decode import Decoder


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


_ALL = 10**9


def timeline_of(store, run, tags, most=_ALL):
    """Reads the numbers of a run.

    Args:
        store: A `Store`.
        run: Name of the run.
        tags: Names of the tags that it has.
        most: How many of the records, the last one among them.

    Returns:
        A `Timeline`, without columns where nothing is recorded yet.

    Raises:
        ReadError: If the records cannot be read.
    """
    names = [t.removeprefix(RECORD) for t in tags if t.startswith(RECORD)]
    # A run that is being written may not have its schema on disk yet.
    names = [name for name in names if SCHEMA + name in tags]
    decoder = Decoder(run)
    schemas = store.last(run, [SCHEMA + name for name in names])
    names = [name for name in names if SCHEMA + name in schemas]
    sets = {
        name: decoder.variables(SCHEMA + name, schemas[SCHEMA + name])
        for name in names
    }
    wanted = [RECORD + name for name in names]
    points = store.points(run, [*wanted, *({WINDOW} & set(tags))], most)
    records = _last_told(
        (point, name)
        for name in names
        for point in points.get(RECORD + name, ())
    )
    rows = _union(sets[name] for name in dict.fromkeys(n for _, n in records))
    order = {row["key"]: number for number, row in enumerate(rows)}
    places = {n: [order.get(row["key"]) for row in sets[n]] for n in names}
    cells = np.full((2, len(records), len(rows)), UNMEASURED, np.float32)
    for number, (point, name) in enumerate(records):
        numbers = decoder.cells(RECORD + name, point, len(sets[name]))
        cells[:, number, places[name]] = numbers
    windows = {
        _when(point): decoder.window(WINDOW, point)
        for point in points.get(WINDOW, ())
    }
    columns, global_norm = _columns(records, windows, cells[0])
    return Timeline(rows, columns, *cells, global_norm)


def _columns(records, windows, norms):
    global_norm = _global_norm(norms)
    columns = np.array([(p.step, p.step, 1) for p, _ in records], np.int64)
    for number, (point, _) in enumerate(records):
        window = windows.get(_when(point))
        if window is not None:
            columns[number, 0], columns[number, 2], global_norm[number] = window
    return columns.reshape(-1, 3), global_norm


def _global_norm(norms):
    """The norm over all gradients of each record; of none, unmeasured."""
    is_there = ~(norms < 0)
    squares = np.square(np.where(is_there, norms, 0.0), dtype=np.float64)
    total = np.sqrt(squares.sum(axis=1))
    return np.where(is_there.any(axis=1), total, UNMEASURED).astype(np.float32)


def _when(point):
    return point.step, point.wall_time


def _last_told(records):
    """Drops what a later training of the same run has told anew."""
    kept, first = [], np.inf
    by_time = sorted(records, key=lambda record: record[0].wall_time)
    for record in reversed(by_time):
        if record[0].step < first:
            kept.append(record)
            first = record[0].step
    return kept[::-1]


def _union(sets):
    """All rows of several sets, each behind the one that it follows."""
    found = []
    for rows in sets:
        keys = [row["key"] for row in found]
        known = set(keys)
        new = [row for row in rows if row["key"] not in known]
        if not found or not new:
            found = found or list(rows)
            continue
        place = 0
        for row in rows:
            if row["key"] in known:
                place = keys.index(row["key"]) + 1
                continue
            found.insert(place, row)
            keys.insert(place, row["key"])
            place += 1
    return tuple(found)
