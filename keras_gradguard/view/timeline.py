"""Step 6 of 6: the records of a run as a table, variables x steps."""

import dataclasses

import numpy as np

from keras_gradguard.cells import UNMEASURED, worst
from keras_gradguard.report.tab import NORMS, SCHEMA, UPDATES, WINDOW
from keras_gradguard.view.store import ReadError


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
        return self if kept.all() else self._map(lambda array: array[kept])

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
        merged = self._map(lambda array: array)
        return dataclasses.replace(
            merged,
            columns=columns,
            norms=worst(self.norms, starts),
            updates=worst(self.updates, starts),
            global_norm=worst(self.global_norm, starts),
        )

    def _map(self, function):
        names = ("columns", "norms", "updates", "global_norm")
        changed = {name: function(getattr(self, name)) for name in names}
        return dataclasses.replace(self, **changed)


def timeline_of(store, run, tags):
    """Reads the numbers of a run.

    Args:
        store: A `Store`.
        run: Name of the run.
        tags: Names of the tags that it has.

    Returns:
        A `Timeline`.

    Raises:
        ReadError: If the records cannot be read.
    """
    names = [tag.removeprefix(NORMS) for tag in tags if tag.startswith(NORMS)]
    texts = store.texts(run, [SCHEMA + n for n in names if SCHEMA + n in tags])
    names = [name for name in names if SCHEMA + name in texts]
    rows = {n: _variables(run, texts[SCHEMA + n]) for n in names}
    wanted = [kind + name for name in names for kind in (NORMS, UPDATES)]
    points = store.points(run, [*wanted, *({WINDOW} & set(tags))])
    windows = {_when(p): p.numpy for p in points.get(WINDOW, ())}
    known = [(p, name) for name in names for p in points.get(NORMS + name, ())]
    known = _last_told(known)
    variables = _union(
        [rows[name] for name in dict.fromkeys(n for _, n in known)]
    )
    order = {row["key"]: number for number, row in enumerate(variables)}
    shape = (len(known), len(variables))
    norms = np.full(shape, UNMEASURED, np.float32)
    updates = norms.copy()
    by_time = {
        (_when(p), name): p.numpy
        for name in names
        for p in points.get(UPDATES + name, ())
    }
    places = {n: [order[row["key"]] for row in rows[n]] for n in names}
    for number, (point, name) in enumerate(known):
        norms[number, places[name]] = _vector(run, point.numpy, rows[name])
        update = by_time.get((_when(point), name))
        if update is not None:
            updates[number, places[name]] = _vector(run, update, rows[name])
    columns, global_norm = _columns(known, windows, norms)
    return Timeline(variables, columns, norms, updates, global_norm)


def _columns(known, windows, norms):
    global_norm = _global_norm(norms)
    columns = np.array([(p.step, p.step, 1) for p, _ in known], np.int64)
    for number, (point, _) in enumerate(known):
        window = windows.get(_when(point))
        if window is not None and window.shape == (3,):
            columns[number, 0], columns[number, 2] = window[:2]
            global_norm[number] = window[2]
    return columns.reshape(-1, 3), global_norm


def _global_norm(norms):
    """The norm over all gradients of each record; of none, unmeasured."""
    known = norms.astype(np.float64)
    is_there = ~(known < 0)
    total = np.sqrt(np.sum(np.where(is_there, known, 0.0) ** 2, axis=1))
    return np.where(is_there.any(axis=1), total, UNMEASURED).astype(np.float32)


def _when(point):
    return point.step, point.wall_time


def _last_told(points):
    """Drops what a later training of the same run has told anew."""
    points = sorted(points, key=lambda known: known[0].wall_time)
    kept, first = [], np.inf
    for known in reversed(points):
        if known[0].step < first:
            kept.append(known)
            first = known[0].step
    return kept[::-1]


def _variables(run, schema):
    rows = schema.get("variables")
    is_known = isinstance(rows, list) and all(
        isinstance(row, dict) and isinstance(row.get("key"), str)
        for row in rows
    )
    if not is_known:
        raise ReadError(f"run {run!r} holds a broken record: its variables")
    return rows


def _union(sets):
    """All rows of several sets, each behind the one that it follows."""
    found = []
    for rows in sets:
        keys, place = [row["key"] for row in found], 0
        for row in rows:
            if row["key"] in keys:
                place = keys.index(row["key"]) + 1
                continue
            found.insert(place, row)
            keys.insert(place, row["key"])
            place += 1
    return tuple(found)


def _vector(run, numbers, rows):
    if numbers.shape != (len(rows),) or numbers.dtype.kind != "f":
        raise ReadError(
            f"run {run!r} holds a broken record: {numbers.shape} "
            f"{numbers.dtype} numbers for {len(rows)} variables"
        )
    return numbers
