"""What the records of several steps show.

Each record is taken in as arrays and counted: how long has a variable been
zero, still, small? Only what lasts is looked at one by one.
"""

import collections
import dataclasses
import math

import numpy as np

from keras_gradguard.records.norms import MISSING

# A gradient that comes to life again, as behind a scale that begins at zero,
# is not vanishing.
_RECOVERY = 2.0


@dataclasses.dataclass(frozen=True)
class Symptom:
    """A layer or a variable that is too small or too large for long.

    Args:
        kind: `"vanishing"` or `"exploding"`.
        paths: Paths of the variables.
        evidence: The figures behind it.
    """

    kind: str
    paths: tuple[str, ...]
    evidence: dict


def vanishing(records, limits):
    """Returns the `Symptom` of layers that get too little, if there are any.

    Every variable of a layer must: a bias alone, before a normalisation or
    in the keys of attention, may have no effect by design.

    Args:
        records: The last records, the oldest first.
        limits: The `Thresholds`.
    """
    lasting = set.intersection(*(_small(record, limits) for record in records))
    first, last = records[0], records[-1]
    if limits.vanishing_decay is not None:
        factor = limits.vanishing_decay
        lasting = {
            layer
            for layer in lasting
            if _mean(last[layer]) <= factor * _mean(first[layer])
        }
    layers = [
        layer
        for layer in last
        if layer in lasting
        and _norm(last[layer]) <= _RECOVERY * _norm(first[layer])
    ]
    if not layers:
        return []
    top = max(map(_norm, last.values()))
    figures = last[layers[0]]
    evidence = {
        "mean": _mean(figures),
        "norm": _norm(figures),
        "ratio": _norm(figures) / top if top else 0.0,
        "records": len(records),
    }
    paths = tuple(path for layer in layers for path in last[layer])
    return [Symptom("vanishing", paths, evidence)]


def _small(record, limits):
    """The layers of one record whose every variable gets too little."""
    names, found = list(record), set()
    later, is_next_small = 0.0, False
    ratio = limits.vanishing_ratio
    for layer in reversed(names):
        norm, mean = _norm(record[layer]), _mean(record[layer])
        is_low = ratio is None or norm < ratio * later
        level = limits.vanishing_mean
        is_small = level is not None and mean < level and is_low
        # What underflows to zero before layers that fade fades too.
        is_next_small = is_small and (norm > 0 or is_next_small)
        if is_next_small:
            found.add(layer)
        later = max(later, norm if math.isfinite(norm) else 0.0)
    return found | set(_faded_from_the_first(record, limits))


def _faded_from_the_first(record, limits):
    names, faded = list(record), []
    ratio, level = limits.vanishing_ratio, limits.vanishing_norm
    if level is None or ratio is None:
        return []
    for number, layer in enumerate(names):
        norm = _norm(record[layer])
        later = max((_norm(record[n]) for n in names[number + 1 :]), default=0)
        if not (norm < level and norm < ratio * later < math.inf):
            break
        faded.append(layer)
    return faded if any(_norm(record[layer]) for layer in faded) else []


def exploding(records, limits):
    """Returns the `Symptom` of gradients that are too large, if there are any.

    Args:
        records: The last records, the oldest first.
        limits: The `Thresholds`.
    """
    paths, evidence = [], {"records": len(records)}
    if limits.exploding_mean is not None:
        for layer, figures in records[-1].items():
            for path in figures:
                means = [record[layer][path].mean for record in records]
                if min(means) > limits.exploding_mean and _grew(means, limits):
                    paths.append(path)
                    largest = max(means[-1], evidence.get("mean", 0.0))
                    evidence["mean"] = largest
    if limits.exploding_ratio is not None and len(records[-1]) > 1:
        first, last = list(records[-1])[0], list(records[-1])[-1]
        norms = [_norm(record[first]) for record in records]
        ends = [_norm(record[last]) for record in records]
        if _is_far_above(norms, ends, limits) and _grew(norms, limits):
            paths += [p for p in records[-1][first] if p not in paths]
            evidence["norm"] = norms[-1]
            evidence["ratio"] = norms[-1] / ends[-1] if ends[-1] else math.inf
    return [Symptom("exploding", tuple(paths), evidence)] if paths else []


def _is_far_above(norms, ends, limits):
    return min(norms) > limits.exploding_norm and all(
        math.inf > first > limits.exploding_ratio * last
        for first, last in zip(norms, ends, strict=True)
    )


def _grew(values, limits):
    factor = limits.exploding_growth
    if not all(map(math.isfinite, values)):
        return False
    return factor is None or values[-1] > factor * values[0]


def _norm(figures):
    """The largest norm among the variables of a layer, 0 if none has one."""
    known = [n.norm for n in figures.values() if n.norm is not None]
    return max(known, default=0.0)


def _mean(figures):
    """The largest mean among the variables of a layer."""
    known = [n.mean for n in figures.values() if n.norm is not None]
    return max(known, default=0.0)


# An update by gradients below these is lost in float32 without any harm.
_AT_REST = 1e-6
_SETTLED = 1e-3
# Records of the whole training that are kept, every other one once it is long.
_MOST_KEPT = 128
# What is counted of each variable: records in a row, the last one included.
_SEEN, _ZERO, _STILL, _NOISY, _LOW, _HIGH = range(6)


@dataclasses.dataclass(frozen=True)
class Numbers:
    """The figures of one variable in one record.

    Args:
        norm: L2 norm of the gradient, `None` where it is missing.
        mean: Mean absolute value.
    """

    norm: float | None
    mean: float = 0.0


class Trends:
    """Remembers the last records of each variable.

    Args:
        thresholds: A `Thresholds`.
    """

    def __init__(self, thresholds):
        self._limits = thresholds
        self._window = thresholds.patience
        self._paths, self._places = (), {}
        self._layers, self._layer_of = [], np.zeros([0], int)
        self._peak = np.zeros([0])
        self._counts = np.zeros([6, 0], int)
        self._are_any = [False] * 6
        self._zero_since = np.full([0], None)
        self._past = collections.deque(maxlen=self._window)
        self._kept, self._interval, self._num_added = [], 1, 0
        self._num_updates, self._num_updated = None, 0

    def add(self, figures, num_updates=None):
        """Takes in one record.

        Args:
            figures: The `Figures` of the variables; `None` for none.
            num_updates: How many updates have been made, `None` if that is
                not known.
        """
        is_more = None not in (num_updates, self._num_updates) and (
            num_updates > self._num_updates
        )
        is_known = num_updates is not None
        self._num_updated = self._num_updated + 1 if is_more else int(is_known)
        self._num_updates = num_updates
        if figures is None:
            self._count(np.zeros([len(self._paths)], bool), None)
            return
        if figures.paths != self._paths:
            figures, is_there = self._in_place(figures)
        else:
            is_there = np.ones([len(figures)], bool)
        self._count(is_there, figures)
        self._past.append(figures)
        self._keep(num_updates, figures.norm)

    def _keep(self, step, norm):
        """Keeps the norms of a record, thinly over the whole training."""
        if self._num_added % self._interval == 0:
            self._kept.append((step, norm))
        self._num_added += 1
        if len(self._kept) > _MOST_KEPT:
            del self._kept[1::2]
            self._interval *= 2

    def history(self):
        """Returns the norms of the whole training, of every nth record.

        Returns:
            A list of `(step, {path: norm})`, the last record included, of
            the gradients that are there and finite.
        """
        kept = list(self._kept)
        if self._past and kept[-1][1] is not self._past[-1].norm:
            kept.append((self._num_updates, self._past[-1].norm))
        return [
            (
                step,
                {
                    path: float(value)
                    for path, value in zip(self._paths, norm, strict=False)
                    if value != MISSING and np.isfinite(value)
                },
            )
            for step, norm in kept
        ]

    def _in_place(self, figures):
        """Puts the columns in the order that is known, or becomes known."""
        new = [path for path in figures.paths if path not in self._places]
        self._paths += tuple(new)
        self._places = {path: n for n, path in enumerate(self._paths)}
        layers = [path.rpartition("/")[0] for path in self._paths]
        self._layers = list(dict.fromkeys(layers))
        known = {layer: number for number, layer in enumerate(self._layers)}
        self._layer_of = np.array([known[layer] for layer in layers], int)
        self._peak = np.pad(self._peak, (0, len(new)))
        self._counts = np.pad(self._counts, ((0, 0), (0, len(new))))
        unknown = np.full([len(new)], None)
        self._zero_since = np.concatenate([self._zero_since, unknown])
        places = [self._places[path] for path in figures.paths]
        is_there = np.zeros([len(self._paths)], bool)
        is_there[places] = True
        columns = {}
        for name in ("norm", "largest", "mean", "moved"):
            whole = np.full([len(self._paths)], MISSING)
            whole[places] = getattr(figures, name)
            columns[name] = whole
        known = dataclasses.replace(figures, paths=self._paths, **columns)
        return known, is_there

    def _count(self, is_there, figures):
        limits = self._limits
        holds = np.zeros(self._counts.shape, bool)
        holds[_SEEN] = is_there
        if figures is not None:
            norm, mean = figures.norm, figures.mean
            is_alive = (norm > 0) & (norm < math.inf)
            peak = np.where(is_alive, norm, 0.0)
            np.maximum(self._peak, peak, out=self._peak)
            holds[_ZERO] = (norm == 0) & (figures.largest == 0)
            holds[_STILL] = is_alive & (figures.moved == 0)
            # What `fading` asks for at the least.
            is_low = norm == MISSING
            if limits.vanishing_mean is not None:
                is_small = mean < limits.vanishing_mean
                holds[_NOISY] = is_alive & is_small
                is_low |= is_small
            if limits.vanishing_norm is not None:
                is_low |= norm < limits.vanishing_norm
            holds[_LOW] = is_low
            if limits.exploding_mean is not None:
                holds[_HIGH] = mean > limits.exploding_mean
            holds &= is_there
        self._counts = (self._counts + 1) * holds
        self._zero_since[self._counts[_ZERO] == 1] = self._num_updates
        lasting = (self._counts >= self._window).any(axis=1)
        self._are_any = lasting.tolist()

    def zero(self):
        """Returns the paths whose gradient stayed zero throughout."""
        return self._lasting(_ZERO)

    def num_zero(self, path):
        """Returns how long a variable's gradient has been zero.

        Args:
            path: Its path.

        Returns:
            `(records in a row that were zero, records in a row with it)`.
        """
        place = self._places.get(path)
        if place is None:
            return 0, 0
        return (
            int(self._counts[_ZERO, place]),
            int(self._counts[_SEEN, place]),
        )

    def zero_since(self, path):
        """Returns the step of the first record of a gradient that stays zero.

        Args:
            path: Path of a variable, zero in the last record.
        """
        return self._zero_since[self._places[path]]

    def still(self):
        """Returns the paths that get a gradient and do not move."""
        lasting, seen = self._lasting(_STILL), self._counts[_SEEN]
        longest = self._window + 1
        return [
            path
            for path in lasting
            if self._num_updated >= min(seen[self._places[path]], longest)
            and not self._has_settled(self._places[path])
        ]

    def largest(self):
        """Returns the largest element of the last record's gradients."""
        return float(self._past[-1].largest.max(initial=0.0))

    def noise(self, fewest=None):
        """Returns the largest gradient, if all are no more than rounding.

        Args:
            fewest: For how many records in a row; by default the patience.

        Returns:
            A float, `None` if some gradient is more than that.
        """
        if fewest is None:
            fewest = self._window
            if not self._are_any[_NOISY]:
                return None
        if not self._past or self._counts[_NOISY].min() < fewest:
            return None
        return float(self._past[-1].largest.max())

    def symptoms(self):
        """Returns the `Symptom`s of vanishing and exploding gradients."""
        is_any = self._are_any[_SEEN]
        if not is_any or self._counts[_SEEN].min() < self._window:
            return []
        may_vanish = self._are_any[_LOW] and self._is_layer_low()
        may_explode = self._are_any[_HIGH] or self._is_first_high()
        if not (may_vanish or may_explode):
            return []
        records = self._records()
        found = vanishing(records, self._limits) if may_vanish else []
        if may_explode and self._is_above_the_first():
            found += exploding(records, self._limits)
        return found

    def _is_above_the_first(self):
        """Gradients that were as large at first are a matter of units."""
        factor = self._limits.exploding_growth
        first = self._kept[0][1]
        last = self._past[-1].norm[: len(first)]
        is_known = (first != MISSING) & (last != MISSING)
        return factor is None or bool(
            np.linalg.norm(last[is_known])
            > factor * np.linalg.norm(first[is_known])
        )

    def _is_layer_low(self):
        others = self._layer_of[self._counts[_LOW] < self._window]
        return 0 in np.bincount(others, minlength=len(self._layers))

    def _is_first_high(self):
        limits = self._limits
        if limits.exploding_ratio is None or len(self._layers) < 2:
            return False
        norms = self._past[-1].norm[self._layer_of == 0]
        return bool((norms > limits.exploding_norm).any())

    def _lasting(self, what):
        if not self._are_any[what]:
            return []
        places = np.flatnonzero(self._counts[what] >= self._window)
        return [self._paths[number] for number in places]

    def _has_settled(self, place):
        """Whether the gradient is as small as it gets at a minimum."""
        last = self._past[-1]
        is_at_rest = last.mean[place] < _AT_REST
        return is_at_rest or last.norm[place] < _SETTLED * self._peak[place]

    def _records(self):
        """The last records, each with the layers in model order."""
        records = []
        for figures in self._past:
            record = {layer: {} for layer in self._layers}
            for path, layer, norm, mean in zip(
                self._paths,
                self._layer_of.tolist(),
                figures.norm.tolist(),
                figures.mean.tolist(),
                strict=True,
            ):
                norm = None if norm == MISSING else norm
                record[self._layers[layer]][path] = Numbers(norm, mean)
            records.append(record)
        return records
