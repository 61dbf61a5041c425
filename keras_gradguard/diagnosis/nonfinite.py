"""Step 4: where a NaN or an Inf begins, in a recorded step."""

import collections
import dataclasses

import numpy as np
import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.batches import flat_batch
from keras_gradguard.backend.tensorflow.tracing.gradients import pulled
from keras_gradguard.diagnosis.places import Lineage
from keras_gradguard.graph.backward import Gradients
from keras_gradguard.graph.ops import RanOp, array_of, bad_elements, is_finite
from keras_gradguard.records.finding import Finding

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
    first = array_of(values)[tuple(elements[0])] if len(elements) else np.nan
    result = "nan" if np.isnan(first) else "inf" if first > 0 else "-inf"
    return Origin(op, elements, result, tensor, **known)


def nonfinite_cause(origin):
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


def origin_evidence(origin, num_samples=None):
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
        values = array_of(tensor)
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
    arrays = [array_of(tensor) for tensor in tensors]
    known = [a[np.isfinite(a)] for a in arrays if a is not None]
    known = [np.real(a) for a in known if a.size]
    if not known:
        return None
    return [
        float(min(a.min() for a in known)),
        float(max(a.max() for a in known)),
    ]


_MOST_ORIGINS = 3
_OWN_GRADIENT = "its own gradient function returns what is not finite"
_BACK = {"phase": "backward"}


def nonfinite_findings(recording, variables, paths, model=None, pull=pulled):
    """Says where the numbers of a recorded step cease to be finite.

    A NaN is followed back to the op that made it, and from there an Inf to
    the op that made that of finite numbers; an Inf that the code put in as
    a constant (a mask) is nobody's fault.

    Args:
        recording: A `Recording` of the step.
        variables: The trainable variables to look at, or the predictions of
            a loss alone.
        paths: The path of each.
        model: The model that ran, or `None` for a loss alone.
        pull: See `Gradients`.

    Returns:
        A list of `Finding`s, one for each line where it begins; empty if
        everything is finite.
    """
    search = _Search(recording, variables, model)
    origins, numbers = search.forward(), _not_finite(recording, variables)
    if not origins:
        origins, found = search.backward(pull)
        numbers = numbers or found
    hit = tuple(paths[number] for number in numbers)
    findings = {}
    for origin in origins:
        finding = search.finding(origin, hit)
        key = (finding.place.file, finding.place.line, finding.cause)
        if finding.place.line is None:
            key += (finding.op, finding.layer)
        findings.setdefault(key, finding)
    return list(findings.values())[:_MOST_ORIGINS]


def _not_finite(recording, variables):
    """The numbers of the variables that were given NaN or Inf."""
    bad = {
        id(variable)
        for group, gradients in recording.applied
        for variable, gradient in zip(group, gradients, strict=True)
        if not is_finite(gradient)
    }
    return [n for n, variable in enumerate(variables) if id(variable) in bad]


class _Search:
    def __init__(self, recording, variables, model):
        self._recording = recording
        self._variables = list(variables)
        self._lineage = Lineage(recording, model)
        self._parts = {id(t): (n, t) for n, t in flat_batch(recording.batch)}
        wanted = {id(v) for v in variables}
        wanted |= {id(getattr(v, "value", v)) for v in variables}
        self._calls = [
            call
            for call in recording.trace.targets
            if any(id(s) in wanted for s in call.sources)
        ]
        self._targets = [t for call in self._calls for t in call.targets]
        self._roots = self._find_roots()

    def _find_roots(self):
        """Where each tensor that is not finite became so: sets of origins."""
        roots = {}
        for name, tensor in self._parts.values():
            if not is_finite(tensor):
                known = {"part": name, "cause": "data"}
                origin = origin_of(None, tensor, tensor, **known)
                roots[id(tensor)] = {origin.key: origin}
        for op in self._recording.ops:
            for tensor in op.outputs:
                if id(tensor) not in roots and not is_finite(tensor):
                    roots[id(tensor)] = self._roots_at(op, tensor, roots)
        return roots

    def _roots_at(self, op, tensor, roots):
        bad = [t for t in op.inputs if not is_finite(t)]
        if _reads_variable(op):
            origin = origin_of(op, tensor, tensor, cause="weight")
            return {origin.key: origin}
        if _has_nan(tensor):
            bad = [t for t in bad if _has_nan(t)] or bad
        found = {}
        for source in bad:
            found.update(roots.get(id(source), {}))
        # An Inf out of Inf alone is passed on; a NaN out of it is made here.
        if not found and (not bad or _has_nan(tensor)):
            origin = origin_of(op, tensor, tensor)
            found = {origin.key: origin}
        return found

    def forward(self):
        """Returns the origins of a loss that is not finite, in order."""
        found = {}
        for target in self._targets:
            if not is_finite(target):
                roots = self._roots.get(id(target), {})
                maker = self._recording.maker(target)
                if not roots and maker is not None:
                    origin = origin_of(maker, target, target)
                    roots = {origin.key: origin}
                found.update(roots)
        return sorted(found.values(), key=lambda o: o.key[1])

    def backward(self, pull):
        """Returns the origins nearest to the loss, and who is hit."""
        origins, hit = {}, []
        for call in self._calls:
            seen = _BadGradients()
            gradients = Gradients(self._recording, call, seen.see, pull)
            for number, variable in enumerate(self._variables):
                source = getattr(variable, "value", variable)
                source = getattr(source, "handle", source)
                if not is_finite(gradients.of(source)):
                    hit.append(number)
                    for origin in seen.origins(source):
                        origins.update(self._forward_cause(origin))
        found = sorted(origins.values(), key=lambda o: -o.key[1])
        return found, sorted(set(hit))

    def _forward_cause(self, origin):
        """A derivative at Inf is not finite because of what made the Inf."""
        found = {}
        for source in origin.op.inputs:
            for key, root in self._roots.get(id(source), {}).items():
                known = {"phase": "backward"}
                if root.cause is None:
                    known["cause"] = origin.cause
                found[key] = dataclasses.replace(root, **known)
        return found or {origin.key: origin}

    def finding(self, origin, hit):
        """Returns an origin as a `Finding`."""
        op, parts = origin.op, self._parts.values()
        num_samples = next((t.shape[0] for _, t in parts if t.shape.rank), None)
        if op is not None and not self._lineage.is_of_batch(op):
            num_samples = None
        evidence = origin_evidence(origin, num_samples)
        bad = sorted({n for n, t in parts if not is_finite(t)})
        if bad:
            evidence["data"] = bad
        known = {}
        if op is not None:
            place, notes = self._lineage.place(op)
            if op.backward is not None and origin.phase == "backward":
                notes = (*notes, _OWN_GRADIENT)
            known = {
                "place": place,
                "notes": notes,
                "op": op.type,
                "layer": self._recording.layer_of(op),
                "loss": self._lineage.loss_of(op),
                "path": self._lineage.path(self._targets, op),
            }
        return Finding(
            kind="nonfinite",
            cause=nonfinite_cause(origin),
            variables=hit,
            evidence=evidence,
            **known,
        )


class _BadGradients:
    """Sees where a finite gradient goes in and one that is not comes out."""

    def __init__(self):
        self._bad = collections.defaultdict(list)
        self._begun = {}

    def see(self, pullback):
        """Takes in the gradient of one op."""
        op = pullback.op
        begins = all(map(is_finite, pullback.incoming))
        for tensor, gradient in zip(op.inputs, pullback.outgoing, strict=False):
            if is_finite(gradient):
                continue
            self._bad[id(tensor)].append(op)
            if begins and op not in self._begun:
                self._begun[op] = _begun(pullback, tensor, gradient)

    def origins(self, tensor):
        """Returns where the gradient of a tensor ceased to be finite."""
        found, queue, seen = [], [tensor], set()
        while queue:
            for op in self._bad[id(queue.pop())]:
                if op in seen:
                    continue
                seen.add(op)
                if op in self._begun:
                    found.append(self._begun[op])
                    continue
                queue += op.outputs
                if not any(self._bad[id(t)] for t in op.outputs):
                    # Finite gradients whose sum is not.
                    found.append(
                        origin_of(op, op.outputs[0], op.outputs[0], **_BACK)
                    )
        return found


def _begun(pullback, tensor, gradient):
    cause = None
    elements = bad_elements(gradient)
    for output, incoming in zip(
        pullback.op.outputs, pullback.incoming, strict=True
    ):
        values = array_of(incoming)
        if values is None or output.shape != tensor.shape:
            continue
        if not np.any(values[tuple(elements.T)]):
            cause = "unchosen"
    if isinstance(gradient, tf.IndexedSlices):
        tensor = gradient.values
    known = {**_BACK, "cause": cause}
    return origin_of(pullback.op, gradient, tensor, **known)


def _reads_variable(op):
    kinds = {t.dtype for t in op.inputs if isinstance(t, tf.Tensor)}
    return tf.resource in kinds and not any(k.is_floating for k in kinds)


def _has_nan(tensor):
    values = array_of(tensor)
    return values is not None and bool(np.isnan(values).any())
