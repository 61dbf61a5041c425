"""What a loss is the sum of, and what each addend depends on.

A loss is taken apart at its additions, back through ops that are linear in
each addend; what stands behind anything else is one addend.
"""

import collections
import dataclasses

import numpy as np

from keras_gradguard.graph.edges import edges
from keras_gradguard.graph.ops import DATA, RESOURCE, Value

# What they give is linear in their first input, whatever the others say.
_PASSING = frozenset(
    (
        "BroadcastTo",
        "CheckNumerics",
        "EnsureShape",
        "ExpandDims",
        "Identity",
        "Mean",
        "Neg",
        "Reshape",
        "Snapshot",
        "Squeeze",
        "Sum",
        "Transpose",
    )
)
_ADDING = frozenset(
    ("Add", "AddV2", "AddN", "BiasAdd", "ConcatV2", "Pack", "Sub")
)
_SCALING = frozenset(("Mul", "MulNoNan"))
_DIVIDING = frozenset(("Div", "DivNoNan", "RealDiv"))
# A longer sum is left alone.
_MOST_OPS = 400
_MOST_VALUES = 50_000
# The bit of the batch; those of variables are higher.
BATCH = 1
# A gradient that somebody has stopped, and meant to.
STOPS = frozenset(("StopGradient", "PreventGradient"))


class TooLong(Exception):
    """The sum, or what it is computed from, has too many ops."""


@dataclasses.dataclass(frozen=True)
class Masks:
    """Which variables a value depends on, a bit for each.

    Args:
        open: Those that its gradient reaches.
        cut: Those that its value depends on through an op without gradient.
        stopped: Those behind a gradient that was stopped by hand.
    """

    open: int = 0
    cut: int = 0
    stopped: int = 0

    @property
    def all(self):
        """All that the value depends on."""
        return self.open | self.cut | self.stopped

    @property
    def variables(self):
        """All but the batch."""
        return self.all & ~BATCH

    def joined(self, other):
        """Returns what depends on what either depends on."""
        return Masks(
            self.open | other.open,
            self.cut | other.cut,
            self.stopped | other.stopped,
        )

    def behind(self, edge):
        """Returns what is left of them on the other side of an edge."""
        if edge.is_open:
            return self
        if is_stop(edge):
            return Masks(0, 0, self.all)
        return Masks(0, self.open | self.cut, self.stopped)


def is_stop(edge):
    """Returns whether an edge is closed because somebody has written so.

    Args:
        edge: An `Edge`.
    """
    op = edge.op
    return not edge.is_open and (op.type in STOPS or op.has_own_gradient)


class Dependence:
    """What every value before a loss depends on.

    What only chooses a branch, or ends a loop, does not count.

    Args:
        starts: `Value`s, the losses.
        bits: A dict of `Tensor` to the bit that it stands for: `BATCH`, or
            a higher one for each variable.

    Raises:
        TooLong: If there are too many values.
    """

    def __init__(self, starts, bits):
        self._bits = bits
        self._masks = {}
        self._edges = {}
        order = self._ordered(starts)
        # The body of a loop leads to itself.
        is_new = True
        while is_new:
            is_new = False
            for value in order:
                found = self._joined(value)
                if found != self._masks.get(value.key):
                    self._masks[value.key] = found
                    is_new = True

    def of(self, value):
        """Returns the `Masks` of a value."""
        return self._masks.get(value.key, Masks())

    def edges(self, value):
        """Returns the `Edge`s that count, see `edges.edges`."""
        if value.key not in self._edges:
            found = [edge for edge in edges(value) if not edge.decides]
            # An id is of use only as long as what it belongs to is there.
            self._edges[value.key] = value, found
        return self._edges[value.key][1]

    def _ordered(self, starts):
        """All values, each after what it was computed from."""
        order, seen = [], set()
        stack = [(value, False) for value in starts]
        while stack:
            value, is_done = stack.pop()
            if is_done:
                order.append(value)
                continue
            if value.key in seen:
                continue
            seen.add(value.key)
            if len(seen) > _MOST_VALUES:
                raise TooLong
            stack.append((value, True))
            stack += [(edge.source, False) for edge in self.edges(value)]
        return order

    def _joined(self, value):
        found = Masks(self._bits.get(value.tensor, 0))
        for edge in self.edges(value):
            found = found.joined(self.of(edge.source).behind(edge))
        return found

    def first_cuts(self, value):
        """Returns the edges at which the gradient of a value ends.

        Args:
            value: A `Value`.

        Returns:
            A dict of the `Op` to its `Edge`, those alone behind which there
            are variables.
        """
        queue, seen, found = collections.deque([value]), set(), {}
        while queue:
            here = queue.popleft()
            if here.key in seen:
                continue
            seen.add(here.key)
            for edge in self.edges(here):
                if not self.of(edge.source).variables:
                    continue
                tensor = edge.source.tensor
                if edge.is_open or not tensor.carries_gradient:
                    queue.append(edge.source)
                else:
                    found.setdefault(edge.op, edge)
        return found

    def depends_on(self, value, ops):
        """Returns whether a value was computed from what some ops made."""
        stack, seen = [value], set()
        while stack:
            here = stack.pop()
            if here.key in seen:
                continue
            seen.add(here.key)
            if here.tensor.op in ops:
                return True
            stack += [edge.source for edge in self.edges(here)]
        return False

    def before_cuts(self, value):
        """Yields the `Value`s from one to where its gradient ends."""
        stack, seen = [value], set()
        while stack:
            here = stack.pop()
            if here.key in seen:
                continue
            seen.add(here.key)
            yield here
            stack += [
                edge.source
                for edge in self.edges(here)
                if edge.is_open or not edge.source.tensor.carries_gradient
            ]


@dataclasses.dataclass(frozen=True)
class Addend:
    """An addend of a loss, which may be a sum itself.

    Args:
        value: Its `Value`.
        parts: The `Addend`s that it is the sum of; empty for none.
        route: `(Op, number of the input)`s from the sum that it belongs to,
            the sum first.
        passed: The `Value`s on the way from that sum to its own.
    """

    value: Value
    parts: tuple = ()
    route: tuple = ()
    passed: tuple = ()

    def values(self):
        """Yields its `Value`, those of its addends, and those between them."""
        stack = [self]
        while stack:
            one = stack.pop()
            yield from one.passed
            stack += one.parts

    def leaves(self, path=()):
        """Yields `(path, Addend)` of those that are no sum; see `at`."""
        if not self.parts:
            yield path, self
        for number, part in enumerate(self.parts):
            yield from part.leaves((*path, number))

    def at(self, path):
        """Returns the addend of an addend of this one.

        Args:
            path: The number of the part, of the part of that, and so on.

        Returns:
            An `Addend`, `None` if there is none.
        """
        here = self
        for number in path:
            if number >= len(here.parts):
                return None
            here = here.parts[number]
        return here


class Sums:
    """Takes losses apart.

    Args:
        dependence: The `Dependence` of the losses.
        stops: `Tensor`s that are addends, whatever they are made of.
        is_formula: Returns whether an `Op` that adds is part of a formula
            that is meant as one.
    """

    def __init__(self, dependence, stops=(), is_formula=lambda op: False):
        self._dependence = dependence
        self._stops = set(stops)
        self._is_formula = is_formula
        self._num_ops = 0

    def of(self, loss):
        """Returns a loss as an `Addend`.

        Args:
            loss: A `Value`.

        Raises:
            TooLong: If the sum has too many ops.
        """
        return self._split(loss)

    def _split(self, value, route=()):
        passed = [value]
        while True:
            self._num_ops += 1
            if self._num_ops > _MOST_OPS:
                raise TooLong
            if value.tensor in self._stops:
                return Addend(value, (), tuple(route), tuple(passed))
            found = self._linear_in(value)
            if len(found) != 1:
                break
            ((edge, number),) = found
            if number is not None:
                route = (*route, (edge.op, number))
            value = edge.source
            passed.append(value)
        parts = tuple(
            self._split(edge.source, ((edge.op, number),))
            for edge, number in found
        )
        return Addend(value, parts, tuple(route), tuple(passed))

    def _linear_in(self, value):
        """`(edge, number of the input)`s that a value is the sum of."""
        op = value.tensor.op
        found = self._dependence.edges(value)
        if not op.inputs or value.context.bodies(op) is not None:
            is_plain = len(found) == 1 and (
                not op.inputs or value.context.bodies(op)[0] == "call"
            )
            return [(found[0], None)] if is_plain else []
        if op.has_own_gradient or value.tensor.kind != DATA:
            return []
        if any(t.kind == RESOURCE for t in op.inputs):
            return []
        return [(found[number], number) for number in self._numbers(op, found)]

    def _numbers(self, op, found):
        if op.type in _PASSING:
            return [0]
        if op.type == "IdentityN":
            return []
        if op.type == "Cast":
            return [0] if op.inputs[0].kind == DATA else []
        if op.type in _ADDING:
            if self._is_formula(op):
                return []
            numbers = range(len(op.inputs))
            return [n for n in numbers if op.inputs[n].kind == DATA]
        factors = [self._dependence.of(one.source).variables for one in found]
        if op.type in _DIVIDING and not factors[1]:
            return [0]
        if op.type in _SCALING and not all(factors) and not has_zero_factor(op):
            return [0 if factors[0] or not factors[1] else 1]
        return []


def has_zero_factor(op):
    """Returns whether an op multiplies by a constant zero.

    Args:
        op: An `Op`.
    """
    if op.type not in _SCALING:
        return False
    found = map(op.graph.oracle.constant, op.inputs)
    return any(array is not None and not np.any(array) for array in found)


def contributions(total, addends):
    """Returns what each addend adds to a recorded loss.

    Args:
        total: The `Addend` of the loss.
        addends: Some of those that it consists of.

    Returns:
        `(loss, parts)`: a number, and for each of the addends
        `(contribution, is_weighted)`; it is not where its weight is zero.
        `None` if the values are not known.
    """
    if _entry(total).array() is None:
        return None
    oracle, found = total.value.tensor.op.graph.oracle, {}
    wanted = {id(addend) for addend in addends}
    seed = oracle.seed(_entry(total))
    stack = [(total, seed)]
    loss = _product(oracle, _entry(total).native, seed)
    while stack:
        one, incoming = stack.pop()
        for op, number in one.route:
            gradients = [None] * len(op.outputs)
            gradients[0] = incoming
            pulled = oracle.pull(op, gradients)
            if pulled is None or pulled[number] is None:
                return None
            incoming = pulled[number]
        if id(one) in wanted:
            part = _product(oracle, one.value.tensor.native, incoming)
            weight = oracle.array(incoming)
            if part is None or weight is None:
                return None
            found[id(one)] = part, bool(np.any(weight))
        stack += [(part, incoming) for part in one.parts]
    if loss is None or len(found) != len(wanted):
        return None
    return loss, [found[id(addend)] for addend in addends]


def _entry(total):
    return total.passed[0].tensor


def _product(oracle, native, weight):
    value, weight = oracle.array(native), oracle.array(weight)
    if value is None or weight is None:
        return None
    return float(np.sum(value.astype("float64") * weight.astype("float64")))
