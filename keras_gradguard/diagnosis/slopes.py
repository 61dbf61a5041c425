"""Whether a gradient is the slope that the values really have.

Central differences along single numbers and along random directions are
compared with what automatic differentiation gave. Where a difference has not
settled (a kink, a jump, the edge of a domain), nothing is said.
"""

import dataclasses

import numpy as np

# As `torch.autograd.gradcheck` in float64: eps 1e-6, atol 1e-5, rtol 1e-3
# (https://docs.pytorch.org/docs/stable/generated/torch.autograd.gradcheck).
# In float32 the step is the one that balances the error of rounding with
# that of the step itself, the cube root of eps (Numerical Recipes, 5.7), and
# the tolerance leaves room for both.
_STEP = {True: 1e-6, False: 5e-3}
_ABSOLUTE = {True: 1e-5, False: 1e-3}
_RELATIVE = {True: 1e-3, False: 2e-2}
_ROUNDING = {True: 2.2e-16, False: 1.2e-7}
# Only what is the same with these multiples of the step is a slope.
_OTHER_STEPS = (0.25, 4.0)
NUM_ELEMENTS = 256
_NUM_DIRECTIONS = 8
# Of more numbers than this a quarter as many are looked at one by one.
_MANY = 4096


@dataclasses.dataclass(frozen=True)
class Mismatch:
    """A gradient that is not the slope.

    Args:
        part: Which of the inputs the worst element is in.
        element: Index of the worst element, `None` if only a direction
            through all of them has shown it.
        automatic: What automatic differentiation says there.
        difference: What the finite difference says.
        num_wrong: How many elements (or directions) differ.
        num_compared: How many were compared.
        is_flat: Whether the values do not change at all where they differ.
    """

    part: int
    element: tuple | None
    automatic: float
    difference: float
    num_wrong: int
    num_compared: int
    is_flat: bool


def mismatch(values, start, gradients, is_double, elements=NUM_ELEMENTS):
    """Compares a gradient with finite differences.

    Args:
        values: A function of a list of arrays; returns a flat array, or
            `None` where it cannot be run.
        start: Arrays to compare at.
        gradients: The gradient of the sum of `values`, an array for each of
            `start`, or `None` for zeros.
        is_double: Whether `values` computes in float64.
        elements: How many single numbers to look at.

    Returns:
        The `Mismatch`, or `None` if they agree wherever it can be told.
    """
    slope = _Slope(values, start, is_double)
    found, num_compared = [], 0
    for part, element, direction in _directions(start, elements):
        automatic = sum(
            float(np.vdot(gradient, way))
            for gradient, way in zip(gradients, direction, strict=True)
            if gradient is not None
        )
        difference = slope.along(direction, automatic)
        if difference is None:
            continue
        num_compared += 1
        if not slope.agree(automatic, difference):
            found.append((part, element, automatic, difference))
    if not found:
        return None
    single = [one for one in found if one[1] is not None] or found
    worst = max(single, key=lambda one: abs(one[2] - one[3]))
    is_flat = all(slope.agree(one[3], 0.0) for one in single)
    return Mismatch(*worst, len(single), num_compared, is_flat)


class _Slope:
    """Finite differences of some values at one place."""

    def __init__(self, values, start, is_double):
        self._values = values
        self._start = [part.astype("float64") for part in start]
        self._is_double = is_double
        self._middle = values(self._start)

    def agree(self, one, other, noise=0.0):
        """Returns whether two slopes are the same within the tolerance."""
        allowed = _ABSOLUTE[self._is_double] + noise
        allowed += _RELATIVE[self._is_double] * max(abs(one), abs(other))
        return abs(one - other) <= allowed

    def along(self, direction, expected):
        """Returns the slope along a direction.

        Args:
            direction: An array for each part.
            expected: The slope that needs no second look.

        Returns:
            A float, `None` if there is no telling.
        """
        moved = zip(self._start, direction, strict=True)
        size = max(float(np.abs(p[d != 0]).max(initial=1.0)) for p, d in moved)
        step = _STEP[self._is_double] * size
        wide = self._differences(direction, step)
        if wide is None:
            return None
        central, *_, noise = wide
        if self.agree(central, expected, noise):
            return expected
        others = [self._differences(direction, step * f) for f in _OTHER_STEPS]
        if None in others:
            return None
        for settled, *_, noise in others:
            if self.agree(settled, expected, noise):
                return expected
        settled, ahead, behind, noise = others[0]
        is_settled = all(
            self.agree(settled, other[0], noise + other[3])
            for other in (wide, *others)
        )
        is_smooth = self.agree(ahead, behind, 2 * noise)
        return settled if is_settled and is_smooth else None

    def _differences(self, direction, step):
        """Central, forward and backward difference, and their rounding."""
        sides = []
        for sign in (1, -1):
            parts = zip(self._start, direction, strict=True)
            moved = [part + sign * step * way for part, way in parts]
            sides.append(self._values(moved))
        if self._middle is None or any(
            side is None or side.shape != self._middle.shape for side in sides
        ):
            return None
        ahead, behind = sides[0] - self._middle, self._middle - sides[1]
        changed = (ahead != 0) | (behind != 0)
        if not changed.any():
            # Flat, or lost beside a large value.
            changed = ~changed
        noise = 8 * _ROUNDING[self._is_double] / step
        noise *= float(np.abs(self._middle[changed]).sum())
        slopes = [ahead.sum() / step, behind.sum() / step]
        found = [sum(slopes) / 2, *slopes, noise]
        return [float(x) for x in found] if np.isfinite(found).all() else None


def _directions(start, elements):
    """Yields `(part, element, direction)`: single numbers, then mixtures."""
    zeros = [np.zeros(part.shape) for part in start]
    sizes = np.cumsum([0, *(part.size for part in start)])
    elements = elements if sizes[-1] <= _MANY else elements // 4
    count = min(elements, sizes[-1])
    for number in np.unique(np.linspace(0, sizes[-1] - 1, count).astype(int)):
        part = int(np.searchsorted(sizes, number, side="right")) - 1
        shape = start[part].shape
        element = np.unravel_index(number - sizes[part], shape)
        direction = list(zeros)
        direction[part] = np.zeros(shape)
        direction[part][element] = 1.0
        yield part, tuple(int(n) for n in element), direction
    random = np.random.default_rng(0)
    for _ in range(_NUM_DIRECTIONS):
        yield 0, None, [random.choice([-1.0, 1.0], p.shape) for p in start]
