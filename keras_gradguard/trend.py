"""Step 3 of 5: what the records of several steps show, in plain Python."""

import collections
import dataclasses
import itertools
import math

from keras_gradguard.fading import exploding, vanishing

# An update by gradients below these is lost in float32 without any harm.
_AT_REST = 1e-6
_SETTLED = 1e-3


@dataclasses.dataclass(frozen=True)
class Numbers:
    """The figures of one variable in one record.

    Args:
        norm: L2 norm of the gradient, `None` where it is missing.
        largest: Largest absolute value.
        mean: Mean absolute value.
        has_moved: Whether the weight differs from that of the last record;
            `None` if that is not known.
        num_updates: Updates made so far.
    """

    norm: float | None
    largest: float = 0.0
    mean: float = 0.0
    has_moved: bool | None = None
    num_updates: int | None = None

    @property
    def is_alive(self):
        """Whether there is a gradient, finite and not zero throughout."""
        return self.norm is not None and 0 < self.norm < math.inf

    @property
    def is_zero(self):
        """Whether there is a gradient, and it is zero throughout."""
        return self.norm == 0 and self.largest == 0


class Trends:
    """Remembers the last records of each variable.

    Args:
        thresholds: A `Thresholds`.
    """

    def __init__(self, thresholds):
        self._limits = thresholds
        self._window = thresholds.patience
        self._past = {}
        self._peak = {}

    def add(self, numbers):
        """Takes in one record.

        Args:
            numbers: `Numbers` by path of the variable, in model order.
        """
        for path, found in numbers.items():
            empty = collections.deque(maxlen=self._window + 1)
            self._past.setdefault(path, empty).append(found)
            if found.is_alive:
                peak = self._peak.get(path, 0.0)
                self._peak[path] = max(peak, found.norm)
        for path in self._past.keys() - numbers.keys():
            self._past[path].clear()

    def zero(self):
        """Returns the paths whose gradient stayed zero throughout."""
        return self._lasting(lambda n: n.is_zero)

    def still(self):
        """Returns the paths that get a gradient and do not move."""
        lasting = self._lasting(lambda n: n.is_alive and n.has_moved is False)
        return [
            path
            for path in lasting
            if self._was_updated(path) and not self._has_settled(path)
        ]

    def noise(self):
        """Returns the largest gradient, if all are no more than rounding.

        Returns:
            A float, `None` if some gradient is more than that.
        """
        limit = self._limits.vanishing_mean
        if limit is None or not self._past:
            return None
        lasting = self._lasting(lambda n: n.is_alive and n.mean < limit)
        if len(lasting) < len(self._past):
            return None
        return max(past[-1].largest for past in self._past.values())

    def signs(self):
        """Returns the `Sign`s of vanishing and exploding gradients."""
        lengths = [len(past) for past in self._past.values()]
        if not lengths or min(lengths) < self._window:
            return []
        records = self._records()
        found = vanishing(records, self._limits)
        return [*found, *exploding(records, self._limits)]

    def _lasting(self, holds):
        return [
            path
            for path, past in self._past.items()
            if len(past) >= self._window
            and all(map(holds, list(past)[-self._window :]))
        ]

    def _has_settled(self, path):
        """Whether the gradient is as small as it gets at a minimum."""
        last = self._past[path][-1]
        return last.mean < _AT_REST or last.norm < _SETTLED * self._peak[path]

    def _was_updated(self, path):
        counts = [numbers.num_updates for numbers in self._past[path]]
        known = None not in counts
        return known and all(a < b for a, b in itertools.pairwise(counts))

    def _records(self):
        """The last records, each with the layers in model order."""
        layers = collections.defaultdict(list)
        for path in self._past:
            layers[path.rpartition("/")[0]].append(path)
        return [
            {
                layer: {path: self._past[path][-back] for path in paths}
                for layer, paths in layers.items()
            }
            for back in range(self._window, 0, -1)
        ]
