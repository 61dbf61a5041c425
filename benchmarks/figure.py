"""One line of the table: what was measured, and the bar it is held to."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Figure:
    """A measured figure.

    Attributes:
        row: The row of the benchmark it belongs to.
        what: What of that row.
        value: The figure itself; `None` where it could not be measured, and
            `note` says why.
        unit: Its unit; `"x"` is a ratio to bare `fit`.
        low: Lower end of its spread.
        high: Upper end of its spread.
        step_ms: Time of one step, where there are steps.
        bar: What is asked of it.
        met: Whether it is; `None` without a bar.
        note: What there is to know beside.
        points: Pairs of numbers that it was fitted to.
    """

    row: str
    what: str
    value: float | None
    unit: str = "x"
    low: float | None = None
    high: float | None = None
    step_ms: float | None = None
    bar: str = ""
    met: bool | None = None
    note: str = ""
    points: tuple = ()

    def held_to(self, limit):
        """Returns the figure with an upper limit; unmeasured is not met.

        Args:
            limit: The bar; `None` leaves the figure without one.
        """
        if limit is None:
            return self
        met = self.value is not None and self.value <= limit
        return dataclasses.replace(self, bar=f"at most {limit:g}", met=met)


def spread(values):
    """Returns the median of values and their quartiles, as a dict.

    Args:
        values: Numbers; none of them gives no figure.
    """
    if not len(values):
        return {"value": None}
    low, value, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return {"value": value, "low": low, "high": high}
