"""Gradients that float16 loses, and loss scales that fall."""

import collections

from keras_gradguard.graph.ops import Context, before_reshaping
from keras_gradguard.model.layers import is_default_step, uses_float16
from keras_gradguard.model.optimizers import loss_scale_of, optimizers_of
from keras_gradguard.records.finding import Finding, Place
from keras_gradguard.source.frames import op_place

# The window, in steps, of `Thresholds.scale_drops`.
_WINDOW = 500
# How often a training that loses nothing is asked again: at these multiples
# of the patience, as each asking costs four steps.
_ASKED_AT = (1, 10, 100)


class Underflow:
    """Follows what float16 does to the gradients of one training.

    Args:
        thresholds: The `Thresholds`.
    """

    def __init__(self, thresholds):
        self._limits = thresholds
        self._past = collections.defaultdict(collections.deque)
        self._told = set()

    def falling(self, captures, num_steps, step_of):
        """Finds loss scales that are halved again and again.

        Args:
            captures: What is measured of each update: its `optimizer`,
                `variables` and `treatment`.
            num_steps: How many steps there are by now.
            step_of: Makes the `Step` of a batch.

        Returns:
            A list of `Finding`s that are new.
        """
        return [
            finding
            for capture in captures
            if capture.treatment.is_scaled
            for finding in self._falling(capture, num_steps, step_of)
        ]

    def is_due(self, num_records):
        """Returns whether `lost` is to be asked at this record."""
        due = [self._limits.patience * times for times in _ASKED_AT]
        has_limit = self._limits.lost_share is not None
        return num_records in due and "lost" not in self._told and has_limit

    def _falling(self, capture, num_steps, step_of):
        known, limit = capture.treatment.read(), self._limits.scale_drops
        key = id(capture)
        if limit is None or key in self._told:
            return []
        past = self._past[key]
        past.append((num_steps, known["num_late"]))
        while past[-1][0] - past[0][0] > _WINDOW:
            past.popleft()
        steps, drops = (b - a for a, b in zip(past[0], past[-1], strict=True))
        if drops <= limit:
            return []
        self._told.add(key)
        step = step_of(None)
        named = dict(zip(map(id, step.variables), step.paths, strict=True))
        return [
            Finding(
                kind="underflow",
                cause="falling_scale",
                variables=tuple(
                    named[id(v)] for v in capture.variables if id(v) in named
                ),
                evidence={
                    "drops": drops,
                    "steps": steps,
                    "loss_scale": float(capture.optimizer.scale_loss(1.0)),
                },
            )
        ]

    def lost(self, step):
        """Finds gradient elements that a larger loss scale brings back.

        Args:
            step: The `Step`; nothing is found without its `data`.

        Returns:
            A list of `Finding`s.
        """
        if step.data is None or not uses_float16(step.model):
            return []
        counts = step.evidence.lost_elements(step.variables, step.paths)
        shares = {
            path: lost / (lost + kept)
            for path, (lost, kept) in counts.items()
            if lost
        }
        hit = [p for p, s in shares.items() if s > self._limits.lost_share]
        if not hit:
            return []
        self._told.add("lost")
        worst = max(hit, key=shares.get)
        return [
            Finding(
                kind="underflow",
                cause="float16",
                variables=tuple(hit),
                evidence={
                    "lost_share": shares[worst],
                    "worst": worst,
                    "loss_scale": float(step.model.optimizer.scale_loss(1.0)),
                },
            )
        ]


# Less than that is no loss scale: a weight of a term, or a unit.
_SMALLEST_SCALE = 128.0


def unscaled_findings(step, trace, optimizers=None):
    """Finds a step of the user's own that forgets to scale its loss.

    Such a step calls `apply` of an optimizer with a loss scale, which divides
    by it. A loss that is multiplied by hand, by a large constant or by a
    variable, may be scaled.

    Args:
        step: The `Step`.
        trace: Its `Trace`, without an error.
        optimizers: Those of a custom loop; by default those of the model.

    Returns:
        A list of `Finding`s.
    """
    if optimizers is None:
        is_own = not is_default_step(step.model)
        optimizers = optimizers_of(step.model) if is_own else []
    known = loss_scale_of(optimizers[0]) if len(optimizers) == 1 else None
    asked = [
        call
        for call in trace.targets
        if call.targets and any(map(call.is_about, step.variables))
    ]
    seeds = [seed for call in asked for seed in call.seeds]
    is_seeded = any(seed is not None for seed in seeds)
    if known is None or not asked or is_seeded:
        return []
    scale, variable = known
    # What comes behind them is the gradient, and the update that divides.
    last = max(t.op.number for call in asked for t in call.targets)
    given = [] if variable is None else trace.graph.standing_for(variable)
    is_read = any(op.number <= last for t in given for op in t.consumers())
    if scale < _SMALLEST_SCALE or is_read or _may_be_scaled(trace.graph, last):
        return []
    return [
        Finding(
            kind="underflow",
            cause="loss_not_scaled",
            place=asked[-1].caller,
            variables=step.paths,
            evidence={"loss_scale": scale},
        )
    ]


SCALED_WRONGLY = ("scaled_twice", "unscaled_twice")
# Of a power that is a whole number, what rounding in float16 may add.
_ROUNDING = 0.1


def scaling_findings(step):
    """Finds a loss that is scaled twice, or gradients unscaled twice.

    It is measured: an optimizer divides by its loss scale what has to grow
    with it in proportion.

    Args:
        step: The `Step` of a model that has trained, its `data` a batch.

    Returns:
        A list of `Finding`s.
    """
    optimizers = optimizers_of(step.model)
    if step.data is None or is_default_step(step.model) or len(optimizers) != 1:
        return []
    known = loss_scale_of(optimizers[0])
    if known is None or known[1] is None:
        return []
    measured = step.evidence.loss_scaling()
    if measured is None:
        return []
    power, calls = measured
    used = [place for own, place in calls if abs(own - 1) < _ROUNDING]
    if abs(power - 2) < _ROUNDING:
        place = used[-1] if len(used) > 1 else Place()
        return [_scaling("scaled_twice", "wrong", place, step, known)]
    if abs(power) < _ROUNDING and used:
        divided = [place for own, place in calls if abs(own + 1) < _ROUNDING]
        place = _unscaling(step, known[1])
        if place.line is None and divided:
            place = divided[-1]
        return [_scaling("unscaled_twice", "underflow", place, step, known)]
    return []


def _scaling(cause, kind, place, step, known):
    return Finding(
        kind=kind,
        cause=cause,
        place=place,
        variables=step.paths,
        evidence={"loss_scale": known[0]},
    )


def _unscaling(step, variable):
    """The line that divides gradients by the loss scale, if it is known."""
    recorded = step.evidence.recorded()
    graph, targets = recorded.graph, recorded.targets
    last = max(
        (t.op.number for call in targets for t in call.targets), default=None
    )
    if recorded.error is not None or last is None:
        return Place()
    given = graph.standing_for(variable)
    scales = {*given, *graph.descendants(given)}
    for op in graph.ops[last + 1 :]:
        is_division = op.type in _DIVISIONS
        if is_division and not scales.isdisjoint(op.inputs[1:]):
            place = op_place(op)
            if place.line is not None:
                return place
    return Place()


_DIVISIONS = ("RealDiv", "DivNoNan", "Div")


def _may_be_scaled(graph, last):
    """Whether an op multiplies by a large constant, or by a variable.

    Args:
        graph: The `Graph`.
        last: The number of the last op that is asked about.
    """
    for context in Context(graph).everything():
        oracle = context.graph.oracle
        if _number(context) > last:
            continue
        for op in context.graph.ops:
            is_division = op.type in _DIVISIONS
            is_later = context.parent is None and op.number > last
            if is_later or (op.type != "Mul" and not is_division):
                continue
            for tensor in op.inputs[1:] if is_division else op.inputs:
                if tensor.shape != ():
                    continue
                value = oracle.constant(tensor)
                if value is None:
                    if op.type != "DivNoNan" and _is_variable(tensor):
                        return True
                    continue
                size = abs(float(value))
                if is_division:
                    size = 1.0 / size if size else 0.0
                if size >= _SMALLEST_SCALE:
                    return True
    return False


def _number(context):
    """The number of the op of the whole graph that runs a context, or -1."""
    number = -1
    while context.parent is not None:
        context, number = context.parent, context.call.number
    return number


def _is_variable(tensor):
    tensor = before_reshaping(tensor)
    is_given = tensor.op.number < 0 or tensor.op.type == "Placeholder"
    return is_given or tensor.op.type in ("ReadVariableOp", "Pow")
