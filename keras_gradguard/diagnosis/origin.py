"""Step 4: the op at which a NaN or an Inf begins, and its figures."""

import dataclasses

import numpy as np

from keras_gradguard.diagnosis.recording import RanOp
from keras_gradguard.diagnosis.values import array, bad_elements

_MOST_SAMPLES = 20
_MOST_VALUES = 3
# Advice, not the verdict: where these give Inf without a zero going in, the
# numbers are too large for the dtype, and it is not their singular point.
_SINGULAR_AT_ZERO = frozenset(
    ("Pow", "RealDiv", "Div", "Reciprocal", "Inv", "Xdivy", "FloorDiv")
)
_SUMS_OF_PRODUCTS = frozenset(
    (
        "MatMul",
        "BatchMatMul",
        "BatchMatMulV2",
        "Einsum",
        "Conv2D",
        "Conv3D",
        "DepthwiseConv2dNative",
        "BiasAdd",
        "AddV2",
        "Sub",
        "Mul",
        "Square",
        "Sum",
        "Mean",
    )
)
_SINGULAR = _SINGULAR_AT_ZERO | {
    "Log",
    "Log1p",
    "Xlogy",
    "Xlog1py",
    "Sqrt",
    "Rsqrt",
    "Acos",
    "Asin",
    "Acosh",
    "Atanh",
    "Atan2",
    "Digamma",
    "Lgamma",
}


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where numbers cease to be finite.

    Args:
        op: The `RanOp`, `None` if the batch itself is not finite.
        elements: Indices of what is not finite, `[count, rank]`.
        result: `"nan"`, `"inf"` or `"-inf"`: what came out first.
        tensor: The tensor that `elements` index: an output of the op, one
            of its inputs if its gradient is meant, or a part of the batch.
        phase: `"forward"` or `"backward"`.
        cause: `"data"`, `"weight"`, `"unchosen"` or `None`.
        part: `"x"`, `"y"` or `"sample_weight"` of a batch.
    """

    op: RanOp | None
    elements: np.ndarray
    result: str
    tensor: object
    phase: str = "forward"
    cause: str | None = None
    part: str | None = None

    @property
    def key(self):
        """What makes two origins the same one."""
        return (self.part, -1 if self.op is None else self.op.number)


def origin_of(op, values, tensor, **known):
    """Makes an `Origin`.

    Args:
        op: The `RanOp`, or `None`.
        values: The tensor that is not finite.
        tensor: What its elements index; see `Origin`.
        **known: Further fields of `Origin`.
    """
    elements = bad_elements(values)
    first = array(values)[tuple(elements[0])] if len(elements) else np.nan
    result = "nan" if np.isnan(first) else "inf" if first > 0 else "-inf"
    return Origin(op, elements, result, tensor, **known)


def cause_of(origin):
    """Returns the cause word of an origin, see `Finding.cause`."""
    if origin.cause is not None or origin.op is None:
        return origin.cause
    if origin.op.backward is not None and origin.phase == "backward":
        return "unexplained"
    if origin.op.type in _SUMS_OF_PRODUCTS:
        # They have a value and a slope everywhere: it is their size.
        return "overflow"
    values = _values(origin)
    is_large = bool(values) and all(value != 0 for value in values)
    is_singular = origin.op.type in _SINGULAR and not (
        is_large and origin.op.type in _SINGULAR_AT_ZERO
    )
    if origin.result != "nan" and not is_singular:
        return "overflow"
    return "origin"


def figures(origin, num_samples=None):
    """Returns the evidence of an origin: phase, result, value, samples.

    Args:
        origin: The `Origin`.
        num_samples: Number of samples of the batch if the first axis of
            what is not finite runs over them, else `None`.
    """
    known = {"phase": origin.phase, "result": origin.result}
    if origin.part is not None:
        known["data"] = origin.part
    values = _values(origin)
    if values:
        known["value"] = values[0] if len(values) == 1 else values
    elif origin.op is not None and origin.cause != "weight":
        limits = _limits(origin.op.inputs)
        if limits:
            known["input_range"] = limits
    known["num_elements"] = len(origin.elements)
    shape = getattr(origin.tensor, "shape", ())
    if num_samples and len(shape) and shape[0] == num_samples:
        rows = sorted({int(element[0]) for element in origin.elements})
        known["samples"] = rows[:_MOST_SAMPLES]
        known["num_samples"] = len(rows)
    return known


def _values(origin):
    """What went into the op at the first element that is not finite."""
    op = origin.op
    if op is None or not len(origin.elements):
        return []
    shape = tuple(origin.tensor.shape)
    found = []
    for tensor in op.inputs:
        values = array(tensor)
        if values is None:
            continue
        try:
            values = np.broadcast_to(values, shape)
        except ValueError:
            return []
        found.append(float(np.real(values[tuple(origin.elements[0])])))
    return found[:_MOST_VALUES]


def _limits(tensors):
    """The smallest and largest finite number that went in."""
    arrays = [array(tensor) for tensor in tensors]
    known = [a[np.isfinite(a)] for a in arrays if a is not None]
    known = [np.real(a) for a in known if a.size]
    if not known:
        return None
    return [
        float(min(a.min() for a in known)),
        float(max(a.max() for a in known)),
    ]
