"""Step 6 of 6: the table of a run, put together from its records."""

import numpy as np

from keras_gradguard.cells import UNMEASURED
from keras_gradguard.report.tab import RECORD, SCHEMA, WINDOW
from keras_gradguard.view.decode import Decoder
from keras_gradguard.view.timeline import Timeline

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
