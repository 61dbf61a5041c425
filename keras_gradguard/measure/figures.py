"""The figures of one record, a column for each."""

import dataclasses

import numpy as np

from keras_gradguard.records.norms import UNMEASURED

UNKNOWN = -1


@dataclasses.dataclass(frozen=True)
class Figures:
    """What one record says of each variable.

    Args:
        paths: Paths of the variables, in model order.
        norm: L2 norms of the gradients, `MISSING` where there is none.
        largest: Largest absolute values.
        mean: Mean absolute values.
        moved: 1 where the weight differs from that of the last record, 0
            where it does not, `UNKNOWN` where that is not known.
    """

    paths: tuple[str, ...]
    norm: np.ndarray
    largest: np.ndarray
    mean: np.ndarray
    moved: np.ndarray

    def __len__(self):
        return len(self.paths)


def figures_of(paths, statistics, updates=None):
    """Returns the `Figures` of what one optimizer has got.

    Args:
        paths: Paths of the variables.
        statistics: Float array, see `capture.statistics`.
        updates: Float array, see `capture.movement`, or `None`.
    """
    moved = np.full(len(paths), UNKNOWN)
    if updates is not None:
        is_known = updates[:, 0] != UNMEASURED
        moved = np.where(is_known, updates[:, 1] > 0, UNKNOWN)
    norm, largest, mean, *_ = statistics.astype(np.float64).T
    largest, mean = np.maximum(largest, 0.0), np.maximum(mean, 0.0)
    return Figures(tuple(paths), norm, largest, mean, moved)


def merged(several, rows):
    """Returns the `Figures` of several optimizers as one.

    Args:
        several: A `Figures` of each, at least one.
        rows: The `HealthRows`, which know the order of the model.

    Returns:
        A `Figures` in model order; of a variable with several updates it
        has the largest norm, and it has moved if one of them moved it.
    """
    if len(several) == 1 and rows.is_in_row_order(several[0].paths):
        return several[0]
    paths = tuple(path for one in several for path in one.paths)
    norm, largest, mean, moved = (
        np.concatenate([getattr(one, name) for one in several])
        for name in ("norm", "largest", "mean", "moved")
    )
    chosen = {}
    for number, path in enumerate(paths):
        known = chosen.get(path)
        if known is None:
            chosen[path] = number
            continue
        moved[number] = moved[known] = max(moved[number], moved[known])
        if _size(norm[number]) > _size(norm[known]):
            chosen[path] = number
    kept = sorted(chosen, key=rows.order.get)
    places = [chosen[path] for path in kept]
    columns = (norm, largest, mean, moved)
    return Figures(tuple(kept), *(column[places] for column in columns))


def _size(norm):
    return norm if np.isfinite(norm) else np.inf


class OverwrittenFigures:
    """Takes overwritten variables out of records.

    Args:
        is_overwritten: Returns whether an optimizer writes the gradient of
            a variable over the variable.
    """

    def __init__(self, is_overwritten):
        self._is_overwritten = is_overwritten
        self._known, self._kept = None, None

    def without(self, figures, named):
        """Returns the `Figures` of variables that are not overwritten.

        Args:
            figures: The `Figures` of a record, or `None`.
            named: Returns a dict of the trainable variables by path.
        """
        if figures is None:
            return None
        if figures.paths != self._known:
            named = named()
            self._known, self._kept = (
                figures.paths,
                [
                    number
                    for number, path in enumerate(figures.paths)
                    if not self._is_overwritten(named.get(path))
                ],
            )
        if len(self._kept) == len(figures):
            return figures
        columns = {
            field.name: getattr(figures, field.name)[self._kept]
            for field in dataclasses.fields(figures)
            if field.name != "paths"
        }
        paths = tuple(figures.paths[number] for number in self._kept)
        return dataclasses.replace(figures, paths=paths, **columns)
