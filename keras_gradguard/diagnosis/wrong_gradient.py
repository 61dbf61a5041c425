"""Gradients that differ from the finite differences of a loss, and why.

Central differences along single numbers and along random directions are
compared with what automatic differentiation gave. Where a difference has not
settled (a kink, a jump, the edge of a domain), nothing is said.
"""

import dataclasses

import numpy as np

from keras_gradguard.graph.trace import LossFailed
from keras_gradguard.records.finding import Finding, Place
from keras_gradguard.source.frames import is_own_fault, op_place

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


_NUM_ELEMENTS = 64
_ADDS = {"AddV2": 1.0, "Add": 1.0, "AddN": 1.0, "Sub": -1.0}


def judged_gradient(call, subject):
    """Compares a hand-written gradient with the slope of its function.

    Args:
        call: One of `LossRun.handmade`.
        subject: The `LossRun`.

    Returns:
        `(cause, Mismatch)`, or `None` if the two agree. The cause is
        `"wrong_gradient"`, `"straight_through"` if the values are piecewise
        constant, `"identity"` if the function returns what it got.
    """
    alone = call.alone(subject.is_dependent)
    if alone is None:
        return None
    for seed in (None, 0):
        found = _compared(alone, seed, subject.is_double)
        if found is not None:
            break
    if found is None:
        return None
    if found.is_flat:
        return "straight_through", found
    out = alone.outputs(alone.start)
    if any(np.array_equal(o, s) for o in out for s in alone.start):
        return "identity", found
    return "wrong_gradient", found


def _compared(alone, seed, is_double):
    """The `Mismatch` of a weighed sum of a function's outputs."""
    random = None if seed is None else np.random.default_rng(seed)

    def weigh(shape):
        return np.ones(shape) if random is None else _between(random, shape)

    weights, gradients = alone.gradients(weigh)
    if all(gradient is None for gradient in gradients):
        return None

    def values(arrays):
        try:
            out = alone.outputs(arrays)
        except Exception as error:
            if is_own_fault(error):
                raise
            # A function need not take every value.
            return None
        pairs = zip(weights, out, strict=True)
        return np.concatenate([np.ravel(w * o) for w, o in pairs])

    return mismatch(values, alone.start, gradients, is_double, _NUM_ELEMENTS)


def _between(random, shape):
    return random.uniform(0.5, 1.5, shape)


def straight_through(subject):
    """Yields the `StopGradient` ops that make a straight-through estimator.

    Their input takes away what is added to them: in `x + stop_gradient(f(x)
    - x)` nothing but `f(x)` is left of the values, and `x` of the gradient.

    Args:
        subject: A `LossRun`.
    """
    for op in subject.graph.ops:
        if op.type != "StopGradient" or op.inputs[0] not in subject.dependent:
            continue
        for user in op.outputs[0].consumers():
            if user.type in _ADDS and len(user.inputs) == 2:
                first, second = user.inputs
                other = second if first is op.outputs[0] else first
                if _cancels(subject, op.inputs[0], other, _ADDS[user.type]):
                    yield op
                    break


def _cancels(subject, stopped, other, sign):
    kept, lost = map(subject.gradients_of, (other, stopped))
    if kept is None or lost is None:
        return False
    is_moving = False
    for pair in zip(kept, lost, strict=True):
        one, two = (0.0 if g is None else g for g in pair)
        is_moving = is_moving or bool(np.any(one))
        if not np.allclose(one, -sign * two):
            return False
    return is_moving


KINDS = {
    "wrong_gradient": "wrong",
    "identity": "wrong",
    "straight_through": "discontinuous",
}
# How many ops the comparison may take; a loss that runs many of them (a
# loop) is compared at fewer elements.
_MOST_OPS = 20_000
_FEW_ELEMENTS = 16
_BESIDE_NOTE = (
    "no single op has a wrong gradient: part of the value bypasses the tape "
    "(NumPy, `.numpy()`, a variable)"
)


def wrong_findings(subject, name):
    """Compares the gradient of a loss with its slope.

    Args:
        subject: A `LossRun`.
        name: Name of the loss for the findings.

    Returns:
        A list of `Finding`s: gradients that are wrong (`"wrong_gradient"`),
        and those that are something else than the slope on purpose
        (`"straight_through"`, `"identity"`).
    """
    findings, users = {}, [call for call in subject.handmade if call.is_users]
    for call in users:
        key = (call.place.file, call.place.line)
        if key not in findings:
            found = judged_gradient(call, subject)
            if found is not None:
                findings[key] = _finding(*found, call.place, name, _of(call))
    for op in straight_through(subject):
        place = op_place(op)
        if place.line is not None:
            findings.setdefault(
                (place.file, place.line),
                Finding(
                    kind=KINDS["straight_through"],
                    place=place,
                    op=op.type,
                    loss=name,
                    cause="straight_through",
                ),
            )
    is_explained = any(f.cause == "wrong_gradient" for f in findings.values())
    if not users and not is_explained:
        findings.update(_of_the_whole(subject, name))
    return list(findings.values())


def _of_their_shape(gradients, start):
    """Leaves out what a `tf.py_function` that is cut inside gives instead."""
    return [
        None if gradient is None or gradient.size != part.size else gradient
        for gradient, part in zip(gradients, start, strict=True)
    ]


def _of_the_whole(subject, name):
    """Compares the whole loss, with what is stopped held still."""

    def values(prediction):
        try:
            return subject.run(prediction, forced=subject.base.stopped).values
        except LossFailed:
            return None

    elements = max(_FEW_ELEMENTS, _MOST_OPS // len(subject.graph.ops))
    found = mismatch(
        values,
        subject.start,
        _of_their_shape(subject.gradients, subject.start),
        subject.is_double,
        min(NUM_ELEMENTS, elements),
    )
    if found is None:
        return {}
    for op in subject.graph.ops:
        of_op = _of_op(subject, op)
        if of_op is not None:
            place = op_place(op)
            cause = "straight_through" if of_op.is_flat else "wrong_gradient"
            key = (place.file, place.line)
            return {key: _finding(cause, of_op, place, name, op=op.type)}
    notes = (_BESIDE_NOTE,)
    return {None: _finding("wrong_gradient", found, Place(), name, notes=notes)}


def _of_op(subject, op):
    """The `Mismatch` of one op alone, run again by itself."""
    alone = None if subject.is_hidden(op) else subject.op_alone(op)
    if alone is None or all(gradient is None for gradient in alone[2]):
        return None
    return mismatch(*alone, subject.is_double, _NUM_ELEMENTS)


def _of(call):
    """Where the function of a hand-written gradient begins."""
    code = getattr(call.function, "__code__", None)
    if code is None:
        return ()
    name, line = code.co_name, code.co_firstlineno
    return (f"`{name}` and its gradient are defined from line {line} on",)


def _finding(cause, found, place, name, notes=(), op=None):
    evidence = {
        "autodiff": found.automatic,
        "difference": found.difference,
        "num_wrong": found.num_wrong,
        "num_compared": found.num_compared,
    }
    if found.element is not None:
        evidence = {"element": list(found.element), **evidence}
    return Finding(
        kind=KINDS[cause],
        place=place,
        op=op,
        loss=name,
        cause=cause,
        notes=notes,
        evidence=evidence,
    )
