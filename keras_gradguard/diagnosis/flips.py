"""Predictions at which a condition of a loss flips.

From the batch's own prediction a straight way leads to another one where the
condition is different; in between it flips, and halving finds the point.
"""

import dataclasses

import numpy as np

from keras_gradguard.graph.trace import LossFailed


class Elements:
    """Each number of a prediction moves alone.

    Args:
        shape: Shape of the part that moves.
    """

    def __init__(self, shape):
        self.shape = shape

    def changed(self, differs):
        """Returns which units have a condition that differs."""
        return differs

    def truth(self, bools, differs):
        """Returns whether the condition of each unit has become true."""
        del differs
        return bools

    def spread(self, share, part):
        """Returns a value per unit in a shape that fits a part."""
        return share if part.shape == self.shape else np.zeros(())

    def directions(self, ways):
        """Returns ways as long as 1 in each unit's largest number."""
        return [np.sign(way) for way in ways]


class Samples:
    """Each sample moves alone, all of its numbers at once.

    Args:
        number: Number of samples.
    """

    def __init__(self, number):
        self.shape = (number,)

    def changed(self, differs):
        """See `Elements`."""
        return differs.reshape(self.shape[0], -1).any(axis=1)

    def truth(self, bools, differs):
        """See `Elements`."""
        differs = differs.reshape(self.shape[0], -1)
        bools = bools.reshape(differs.shape)
        return 2 * (bools & differs).sum(axis=1) >= differs.sum(axis=1)

    def spread(self, share, part):
        """See `Elements`."""
        return share.reshape(self.shape + (1,) * (part.ndim - 1))

    def directions(self, ways):
        """See `Elements`."""
        flat = [np.abs(way).reshape(self.shape[0], -1) for way in ways]
        size = np.concatenate(flat, axis=1).max(axis=1)
        size = np.where(size == 0, 1.0, size)
        return [way / self.spread(size, way) for way in ways]


class Whole:
    """All numbers move at once."""

    shape = ()

    def changed(self, differs):
        """See `Elements`."""
        return np.asarray(differs.any())

    def truth(self, bools, differs):
        """See `Elements`."""
        return np.asarray(2 * (bools & differs).sum() >= differs.sum())

    def spread(self, share, part):
        """See `Elements`."""
        del part
        return share

    def directions(self, ways):
        """See `Elements`."""
        size = max(np.abs(way).max(initial=0) for way in ways) or 1.0
        return [way / size for way in ways]


# Distances from the flip, as shares of the size of the prediction; a jump
# is the same at all of them, a slope is a tenth at a tenth of the distance.
_WIDTHS = {True: (1e-4, 1e-5, 1e-6), False: (1e-2, 1e-3, 1e-4)}
# Halvings until the flip is known to a tenth of the smallest width or less.
_HALVINGS = {True: 32, False: 20}
# How far toward the targets a prediction is moved first.
_NEARLY = 0.9


@dataclasses.dataclass(frozen=True)
class Flip:
    """A prediction at which a condition flips.

    Args:
        units: What can move alone.
        point: Arrays, the prediction on the flip.
        step: Arrays, the way across the flip.
        toward_true: For each unit, 1 if `step` leads to where the condition
            is true, -1 if it leads away, 0 if it does not flip.
        widths: Shares of `step` to go to each side, the largest first.
    """

    units: object
    point: list
    step: list
    toward_true: np.ndarray
    widths: tuple

    def side(self, width, signs):
        """Returns the prediction beside the flip.

        Args:
            width: One of `widths`.
            signs: For each unit, whether to go along `step` or back.
        """
        return [
            point + width * self.units.spread(signs, point) * step
            for point, step in zip(self.point, self.step, strict=True)
        ]


class FlipSearch:
    """The ways from a batch's prediction to other ones.

    Args:
        subject: A `LossRun`.
        with_path: Whether to follow the Python code too.

    Attributes:
        first: The `Run` that the ways start from.
        num_runs: How often the loss has been run.
    """

    def __init__(self, subject, with_path=False):
        self._subject = subject
        self._with_path = with_path
        self.num_runs = 0
        start = subject.start
        sizes = [float(np.abs(part).max(initial=0)) for part in start]
        self._size = max([1.0, *sizes])
        self.first = self.run(start)
        self._ends = [
            (end, self.run(end))
            for end in _ends(start, subject.targets, self._size)
        ]

    def run(self, prediction):
        """Runs the loss, returns `None` where it fails."""
        self.num_runs += 1
        try:
            return self._subject.run(prediction, with_path=self._with_path)
        except LossFailed:
            return None

    def switches(self, read):
        """Yields predictions at which a condition flips, the best first.

        Args:
            read: Returns the truth values of a condition in a `Run`, or
                `None` where it was not asked.
        """
        changed = []
        for end, run in self._ends:
            differs = self._differs(read, run)
            if differs is not None and differs.any():
                changed.append((end, differs))
        if not changed:
            return
        levels = list(self._units(changed[0][1].shape))
        single = [[one] for one in changed] if len(changed) > 1 else []
        for group in (changed, *single):
            for units in levels:
                found = self._walk(read, units, group)
                if found is not None:
                    yield found

    def _differs(self, read, run):
        first = read(self.first)
        now = None if run is None else read(run)
        if first is None or now is None or now.shape != first.shape:
            return None
        return now != first

    def _units(self, shape):
        """What can move alone: numbers, samples, or only the whole batch."""
        start = self._subject.start
        if shape and any(part.shape == shape for part in start):
            yield Elements(shape)
        rows = {part.shape[:1] for part in start}
        if shape and shape[0] > 1 and rows == {shape[:1]}:
            yield Samples(shape[0])
        yield Whole()

    def _walk(self, read, units, group):
        start = self._subject.start
        way, is_on = _merged(units, start, group)

        def at(share):
            shares = [units.spread(share * is_on, part) for part in start]
            parts = zip(start, shares, way, strict=True)
            return [part + share * step for part, share, step in parts]

        low, high = np.zeros(is_on.shape), np.ones(is_on.shape)
        for _ in range(_HALVINGS[self._subject.is_double]):
            middle = (low + high) / 2
            differs = self._differs(read, self.run(at(middle)))
            if differs is None:
                return None
            flips = units.changed(differs)
            low = np.where(flips, low, middle)
            high = np.where(flips, middle, high)
        beyond = self.run(at(high))
        differs = self._differs(read, beyond)
        if differs is None or not (units.changed(differs) & is_on).any():
            return None
        is_on = units.changed(differs) & is_on
        truth = units.truth(read(beyond), differs)
        toward_true = np.where(truth, 1.0, -1.0) * is_on
        step = [part * self._size for part in units.directions(way)]
        widths = _WIDTHS[self._subject.is_double]
        point = at((low + high) / 2)
        return Flip(units, point, step, toward_true, widths)


def _merged(units, start, group):
    """The first way of a group on which each unit flips, and which do."""
    is_on = np.zeros(units.shape, bool)
    way = [np.zeros_like(part) for part in start]
    for end, differs in group:
        new = units.changed(differs) & ~is_on
        is_on = is_on | new
        for number, part in enumerate(start):
            chosen = units.spread(new, part)
            way[number] = np.where(chosen, end[number] - part, way[number])
    return way, is_on


def _ends(start, targets, size):
    """Predictions far enough from the batch's for conditions to flip."""
    shapes = [part.shape for part in start]
    has_targets = [target.shape for target in targets] == shapes
    if has_targets:
        pairs = list(zip(start, targets, strict=True))
        # On the targets all errors are alike, which is not a typical place.
        yield [part + _NEARLY * (target - part) for part, target in pairs]
    for shift in (size, -size):
        yield [part + shift for part in start]
    yield [part[::-1] if part.ndim else part for part in start]
    yield [-part for part in start]
    for shift in (10 * size, -10 * size):
        yield [part + shift for part in start]
    if has_targets:
        yield targets
