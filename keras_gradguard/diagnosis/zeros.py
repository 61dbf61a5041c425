"""Where a gradient becomes zero, in a recorded step."""

import collections
import dataclasses
import os

import numpy as np

from keras_gradguard.diagnosis.places import Places, inputs_of
from keras_gradguard.graph.backward import Gradients
from keras_gradguard.graph.ops import (
    RESOURCE,
    Context,
    Op,
    Tensor,
    is_constant,
    is_zero,
)
from keras_gradguard.model.losses import is_in_compiled_loss
from keras_gradguard.records.finding import Finding, Place
from keras_gradguard.source.frames import op_place

PRODUCTS = frozenset(
    (
        "MatMul",
        "BatchMatMul",
        "BatchMatMulV2",
        "Einsum",
        "Conv1D",
        "Conv2D",
        "Conv3D",
        "DepthwiseConv2dNative",
        "Conv2DBackpropInput",
        "Conv3DBackpropInputV2",
    )
)
# Their slope is never zero: zeros come out only where gradients cancel, as
# they do for a bias before a normalisation.
_SUMS = frozenset(
    ("Add", "AddV2", "AddN", "BiasAdd", "Sub", "Sum", "Mean", "Neg", "Cumsum")
)
_AT_THEIR_MINIMUM = frozenset(("Square", "SquaredDifference", "Abs", "L2Loss"))
_ENDS = {"Sigmoid": (0.0, 1.0), "Tanh": (-1.0, 1.0), "Softmax": (0.0, 1.0)}
_SOFTMAX_LOSSES = (
    "SoftmaxCrossEntropyWithLogits",
    "SparseSoftmaxCrossEntropyWithLogits",
)
# Keras clips probabilities at 1e-7, so a perfect fit costs about as much.
_NOTHING_LOST = 1e-6
_CLIPS = ("ClipByValue", "Minimum", "Maximum", "Relu6")

# Of zeros they make zeros: of their first input, of any of two.
_KEEP_ZEROS = frozenset(
    (
        *("Abs", "DivNoNan", "Floor", "GatherV2", "Max", "Mean", "Min", "Mul"),
        *("MulNoNan", "Neg", "Prod", "RealDiv", "Relu", "Sign", "Slice"),
        *("Sqrt", "Square", "StridedSlice", "Sum"),
    )
)
_ANY_ZERO = frozenset(("Mul", "MulNoNan"))
_SAME_VALUES = frozenset(
    (
        *("BroadcastTo", "Cast", "ExpandDims", "Identity", "Reshape"),
        *("Squeeze", "StopGradient", "Tile", "Transpose"),
    )
)
_FLAT_ENDS = ("dead_relu", "saturated_clip", "saturated_activation")

# Causes of a zero that no other data would change: one batch proves them.
ALWAYS_ZERO = ("sign", "one_unit_softmax", "loss_weight", "constant_loss")


def holds_constant(graph):
    """Returns whether an op in a traced step gives the same for any data.

    Args:
        graph: A `Graph`; bodies of functions and branches are entered.
    """
    return any(
        is_constant(op)
        for context in Context(graph).everything()
        for op in context.graph.ops
    )


def zero_cause(stop, places):
    """Returns the cause word of a `Stop`, `None` if it is no fault.

    Args:
        stop: The `Stop`.
        places: The `Places` of the step.
    """
    op = stop.op
    if stop.cancels:
        # A shift of all scores may well cancel; a prediction may not, and
        # no kernel: its gradient is another one for each input.
        is_parameter = stop.tensor.kind == RESOURCE or is_weight(stop.tensor)
        is_shift = is_parameter and not stop.is_kernel
        return None if is_shift else "constant_loss"
    if op.type in _SUMS:
        return None
    if op.type in _AT_THEIR_MINIMUM and not np.any(op.inputs[0].array()):
        return None
    others = [t for t in op.inputs if t is not stop.tensor]
    zeros = [t for t in others if _is_nothing(t)]
    if op.type in PRODUCTS:
        if not zeros:
            return None
        return "zero_weights" if is_weight(zeros[0]) else "zero_input"
    if op.type in ("Mul", "MulNoNan"):
        return _of_product(op, zeros, places)
    return _of_slope(stop, places)


def _of_product(op, zeros, places):
    if not zeros:
        # Elements that are not zero, times a gradient that is zero there.
        return None
    if is_weight(zeros[0]):
        return "zero_weights"
    is_constant = zeros[0].op.number < 0
    if is_constant and is_in_compiled_loss(op.frames):
        if all(zeros[0] is not t for _, t in places.trace.batch):
            return "loss_weight"
    return "zero_factor"


def _of_slope(stop, places):
    op, values = stop.op, stop.tensor.array()
    if op.type == "Sign":
        return "sign"
    if op.type in ("Softmax", "LogSoftmax", *_SOFTMAX_LOSSES):
        if values.shape[-1] == 1:
            return "one_unit_softmax"
    if op.type in _SOFTMAX_LOSSES:
        is_lost = np.any(op.outputs[0].array())
        return "saturated_activation" if is_lost else None
    if op.type in ("Softmax", "LogSoftmax"):
        spread = np.ptp(stop.incoming[0], axis=-1)
        at_end = np.isin(op.outputs[0].array(), (0, 1)).all()
        if not np.any(spread) and not at_end:
            return "constant_loss"
        return "saturated_activation"
    if op.type in ("Relu", "Relu6") and np.all(values <= 0):
        return "dead_relu" if np.any(values) else _of_zeros(stop)
    if op.type == "Maximum" and not any(
        np.any(t.array()) for t in op.inputs if t is not stop.tensor
    ):
        return "dead_relu"
    if op.type in _CLIPS:
        return "saturated_clip"
    if op.type in (*_ENDS, "Softsign", "Erf", "Selu", "Elu", "Softplus"):
        return "saturated_activation"
    return "unexplained_zero"


def _of_zeros(stop):
    """Why a value is zero throughout: zeros went into the layer."""
    op = stop.tensor.op
    while op.type in ("BiasAdd", "Add", "AddV2", "Reshape"):
        op = op.inputs[0].op
    if op.type not in PRODUCTS:
        return "dead_relu"
    for tensor in op.inputs:
        if _is_nothing(tensor):
            return "zero_weights" if is_weight(tensor) else "zero_input"
    return "dead_relu"


def _is_nothing(tensor):
    """Whether a tensor is data, and zero throughout or empty."""
    values = tensor.array()
    return values is not None and not np.any(values)


def is_weight(tensor):
    """Whether a tensor is a variable's value, perhaps cast or reshaped."""
    op = tensor.op
    while op.number >= 0:
        if op.type in ("ReadVariableOp", "ResourceGather"):
            return True
        if op.type not in ("Cast", "Identity", "Reshape", "Transpose"):
            return False
        op = op.inputs[0].op
    return False


def is_satisfied(stop, cause, places, noise=0.0):
    """Returns whether the loss would not gain by a slope: all is well.

    A value that is held at a bound and that the loss wants beyond this bound
    is as good as it can be, if nothing is lost by it any more: a hinge whose
    margin is kept, a probability that is right and 1.

    Args:
        stop: The `Stop`.
        cause: Its cause word.
        places: The `Places` of the step.
        noise: See `zeros.zero_findings`.
    """
    op = stop.op
    is_tail = bool(noise) and cause != "constant_loss"
    if is_tail or (stop.cancels and stop.num_uses > 2):
        # The terms of a cross-entropy of logits cancel once they are large.
        if places.largest_loss(op) <= _NOTHING_LOST:
            return True
    is_bound = cause in ("saturated_clip", "dead_relu", "unexplained_zero")
    if cause == "saturated_activation" and op.type in _ENDS:
        low, high = _ENDS[op.type]
        after = op.outputs[0].array()
        is_low, is_high = after == low, after == high
    elif is_bound and places.is_in_loss(op):
        before, after = stop.tensor.array(), op.outputs[0].array()
        if before is None or after is None or before.shape != after.shape:
            return False
        is_low, is_high = after > before, after < before
    else:
        return False
    wish = stop.incoming[0] if stop.incoming else None
    if wish is None or wish.shape != after.shape:
        return False
    if np.any(after) and places.largest_loss(op) > _NOTHING_LOST:
        return False
    return bool(np.all(wish[is_low] >= 0) and np.all(wish[is_high] <= 0))


def zero_input_origin(stop, handles, places):
    """Returns the `Stop` at which the zeros of a zero input begin.

    A dead layer gives zeros to the next one, whose ReLU is then at its flat
    end too: what stops the gradient first is not what is to be mended.

    Args:
        stop: A `Stop` whose cause is a zero input.
        handles: Tensors of the variables that get no more than zeros.
        places: The `Places` of the step.

    Returns:
        A `Stop` of the op that makes zeros out of what is not zero and hangs
        on one of the variables; else one of the first layer that gets zeros.
    """
    hangs_on_them = _hanging_on(handles)
    first, op = stop, stop.op
    while op is not None:
        zeros = [t for t in op.inputs if _is_all_zero(t)]
        inputs = [t for t in zeros if not is_weight(t)]
        if op.type in PRODUCTS and inputs:
            first = _at(stop, op, inputs[0])
        learned = [t for t in inputs if hangs_on_them(t)]
        if learned:
            op = learned[0].op if learned[0].op.number >= 0 else None
            continue
        others = [t for t in op.inputs if t.array() is not None]
        alive = [t for t in others if all(t is not zero for zero in zeros)]
        held = [t for t in alive if hangs_on_them(t)]
        tensors = held or alive
        if op is not stop.op and tensors:
            begin = _at(stop, op, tensors[0])
            if zero_cause(begin, places) not in (None, "unexplained_zero"):
                return begin
        break
    return first


def _zero_factor_origin(stop, handles, places):
    """The `Stop` at which a flat end makes the factors zero, or the given."""
    factors = [t for t in stop.op.inputs if t is not stop.tensor]
    if stop.op.type == "Prod":
        factors = [stop.tensor]
    origin = _maker_of_zeros(next(filter(_is_all_zero, factors), None))
    held = filter(_hanging_on(handles), () if origin is None else origin.inputs)
    for tensor in held:
        begin = _at(stop, origin, tensor)
        if zero_cause(begin, places) in _FLAT_ENDS:
            return begin
    return stop


def _maker_of_zeros(tensor):
    """The op that makes a tensor of zeros out of what is not zero.

    Returns:
        An `Op`, or `None` where zeros come in from outside.
    """
    while tensor is not None and tensor.op.number >= 0:
        op = tensor.op
        source = op.inputs[0] if op.inputs else None
        # What is no float has no numbers here.
        is_known = source is not None and source.array() is not None
        if op.type in _SAME_VALUES and not is_known:
            tensor = source
            continue
        parts = op.inputs if op.type in _ANY_ZERO else op.inputs[:1]
        zero = next(filter(_is_all_zero, parts), None)
        if zero is None or op.type not in _KEEP_ZEROS | _SAME_VALUES:
            return op
        tensor = zero
    return None


def _hanging_on(handles):
    """Returns a test: is a tensor computed from one of some others."""
    known = set(handles)

    def is_hanging(tensor):
        return any(
            source in known
            for op in tensor.op.graph.ancestors([tensor])
            for source in op.inputs
        )

    return is_hanging


def _is_all_zero(tensor):
    values = tensor.array()
    return values is not None and values.size > 0 and not np.any(values)


def _at(stop, op, tensor):
    return dataclasses.replace(
        stop, op=op, tensor=tensor, incoming=(), cancels=False, num_uses=1
    )


_ABOVE_NOISE = 1e3
# A sum of float32s that is zero but for rounding leaves more than that.
_BELOW_ROUNDING = 1e-20


@dataclasses.dataclass(eq=False)
class Stop:
    """An op that gets a gradient and passes none on.

    Args:
        op: The `Op`.
        tensor: The input whose gradient is zero.
        incoming: The gradients of the op's outputs, arrays or `None`.
        cancels: Whether several uses of `tensor` have gradients that are
            not zero and add up to zero.
        num_uses: How many uses it has through which a gradient may come.
        is_kernel: Whether `tensor` is a variable of two axes or more.
    """

    op: Op
    tensor: Tensor
    incoming: tuple = ()
    cancels: bool = False
    num_uses: int = 1
    is_kernel: bool = False


def zero_findings(recorded, variables, paths, model, noise=0.0):
    """Says which op stops the gradient of variables that get only zeros.

    Args:
        recorded: The `Trace` of the step that was recorded.
        variables: Trainable variables whose gradient is zero throughout.
        paths: The path of each.
        model: The model that ran.
        noise: The largest absolute gradient that counts as zero: what is
            left of a sum that is zero but for rounding.

    Returns:
        A list of `Finding`s, empty where the recorded step gives a gradient
        or where the zero is as it should be: a loss that is satisfied, a
        bias whose effect cancels.
    """
    places = Places(recorded, model)
    hit, stops = collections.defaultdict(set), {}
    graph = recorded.graph
    for call in recorded.targets:
        seen = _Stops(graph.oracle, noise)
        asked = [n for n, v in enumerate(variables) if call.is_about(v)]
        gradients = Gradients(graph, call, seen.see) if asked else None
        for number in asked:
            if is_zero(gradients.array(variables[number]), noise):
                for stop in seen.of(graph.standing_for(variables[number])):
                    known = stops.setdefault(stop.op, (stop, call))
                    if stop.is_kernel and not known[0].is_kernel:
                        stops[stop.op] = stop, call
                    hit[stop.op].add(number)
    _trace_back(stops, hit, variables, places)
    _merge(stops, hit, places)
    findings = []
    for op, (stop, call) in stops.items():
        cause = zero_cause(stop, places)
        if cause is None or is_satisfied(stop, cause, places, noise):
            continue
        # What has settled is as small as rounding too.
        is_rounding = noise > _BELOW_ROUNDING
        if is_rounding and (stop.cancels or cause != "constant_loss"):
            continue
        place, notes = places.place(op)
        if cause == "zero_factor":
            place, notes = _place_of_zeros(stop, places, place, notes)
        if place.line is None and cause == "saturated_clip":
            # Keras' own clip, inside of a loss that the user gave.
            place = places.loss_place(op)
        largest = [abs(g).max() for g in stop.incoming if g is not None]
        finding = Finding(
            kind="zero",
            cause=cause,
            place=place,
            notes=notes,
            op=op.type,
            layer=op.layer,
            loss=places.loss_of(op),
            path=places.path(call.targets, op),
            variables=tuple(paths[number] for number in sorted(hit[op])),
            evidence={"incoming": float(max(largest))} if largest else {},
            **inputs_of(op),
        )
        findings.append(finding)
    return sorted(findings, key=lambda f: -len(f.variables))


_ZEROS = "`{}` returns only zeros here; {} multiplies by them"


def _place_of_zeros(stop, places, place, notes):
    """The line that makes a factor zero, if another one multiplies by it."""
    factors = [t for t in stop.op.inputs if t is not stop.tensor]
    origin = _maker_of_zeros(next(filter(_is_all_zero, factors), None))
    found = Place() if origin is None else op_place(origin)
    is_here = (place.file, place.line) == (found.file, found.line)
    if None in (place.line, found.line) or is_here:
        return place, notes
    line = f"line {place.line}"
    if place.file != found.file:
        line += f" of {os.path.basename(place.file)}"
    return found, (*notes, _ZEROS.format(origin.type, line))


def _trace_back(stops, hit, variables, places):
    """Puts where zeros begin in the place of what gets them."""
    for op, (stop, call) in list(stops.items()):
        cause = zero_cause(stop, places)
        if cause not in ("zero_input", "zero_factor", "unexplained_zero"):
            continue
        graph = op.graph
        known = [graph.standing_for(variables[number]) for number in hit[op]]
        handles = [tensor for tensors in known for tensor in tensors]
        if cause == "zero_input":
            origin = zero_input_origin(stop, handles, places)
        elif op.type in (*_ANY_ZERO, "Prod"):
            origin = _zero_factor_origin(stop, handles, places)
        else:
            continue
        if origin.op is not op:
            del stops[op]
            stops.setdefault(origin.op, (origin, call))
            hit[origin.op] |= hit.pop(op)


def _merge(stops, hit, places):
    """What gets zeros because another layer gives zeros is that one's."""
    for op in list(stops):
        before = op.graph.ancestors(op.inputs)
        first = next((o for o in stops if o is not op and o in before), None)
        if first is not None and zero_cause(stops[op][0], places) == (
            "zero_input"
        ):
            hit[first] |= hit.pop(op)
            del stops[op]


class _Stops:
    """Sees where a gradient goes in and only zeros come out."""

    def __init__(self, oracle, noise):
        self._array = oracle.array
        self._noise = noise
        self._uses = collections.defaultdict(list)

    def see(self, pullback):
        """Takes in the gradient of one op."""
        op = pullback.op
        limit = _ABOVE_NOISE * self._noise
        arrives = any(
            g is not None and not is_zero(self._array(g), limit)
            for g in pullback.incoming
        )
        incoming = None
        for tensor, gradient in zip(op.inputs, pullback.outgoing, strict=False):
            known = self._array(gradient)
            # A tensor of no rows has nothing to pass on.
            if known is None or not known.size:
                continue
            nothing = is_zero(known, self._noise)
            stops = arrives and nothing
            if stops and incoming is None:
                incoming = tuple(
                    self._array(g, dense=True) for g in pullback.incoming
                )
            use = _Use(op, nothing, incoming if stops else None)
            self._uses[tensor].append(use)

    def of(self, tensors):
        """Returns the `Stop`s between the loss and some tensors."""
        found, queue, seen = [], list(tensors), set()
        while queue:
            tensor = queue.pop()
            if tensor in seen:
                continue
            seen.add(tensor)
            uses = self._uses[tensor]
            passing = [use for use in uses if not use.is_zero]
            if passing:
                op = max((use.op for use in passing), key=_number)
                number = len(uses)
                is_kernel = tensor.kind == RESOURCE and _is_kernel(op)
                if tensor.kind == RESOURCE and number > 1:
                    op = _meeting([use.op for use in passing]) or op
                found.append(Stop(op, tensor, (), True, number, is_kernel))
                continue
            for use in uses:
                if use.incoming is not None:
                    found.append(Stop(use.op, tensor, use.incoming))
                else:
                    queue += use.op.outputs
        return found


def _number(op):
    return op.number


def _is_kernel(read):
    shapes = [t.shape for t in read.outputs if t.shape is not None]
    return any(len(shape) > 1 for shape in shapes)


def _meeting(ops):
    """The first op that is computed from what each of some ops has made."""
    graph = ops[0].graph
    later = [
        {t.op for t in graph.descendants(op.outputs)}.difference(ops)
        for op in ops
    ]
    return min(set.intersection(*later), key=_number, default=None)


@dataclasses.dataclass(frozen=True)
class _Use:
    """One use of a tensor: does a gradient come back, did one go in."""

    op: Op
    is_zero: bool
    incoming: tuple | None
