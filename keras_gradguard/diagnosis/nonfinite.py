"""Where a NaN or an Inf begins, in a recorded step."""

import collections
import dataclasses

import numpy as np

from keras_gradguard.diagnosis.hidden_origins import (
    hidden_derivatives,
    hidden_notes,
    hidden_ops,
)
from keras_gradguard.diagnosis.places import Places, inputs_of
from keras_gradguard.graph.backward import Gradients
from keras_gradguard.graph.ops import (
    DATA,
    RESOURCE,
    Op,
    bad_elements,
    is_finite,
)
from keras_gradguard.records.finding import Finding

_MOST_SAMPLES = 20
_MOST_VALUES = 3
# Advice, not the verdict: where these give Inf without a zero going in, the
# numbers are too large for the dtype, and it is not their singular point.
_SINGULAR_AT_ZERO = frozenset(
    ("Pow", "RealDiv", "Div", "Reciprocal", "Inv", "Xdivy", "FloorDiv")
)
SUMS_OF_PRODUCTS = frozenset(
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
        op: The `Op`, `None` if the batch itself is not finite.
        elements: Indices of what is not finite, `[count, rank]`.
        result: `"nan"`, `"inf"` or `"-inf"`: what came out first.
        shape: The shape that `elements` index: that of an output of the op,
            of one of its inputs if its gradient is meant, or of a part of
            the batch.
        phase: `"forward"` or `"backward"`.
        cause: `"data"`, `"weight"`, `"unchosen"` or `None`.
        part: `"x"`, `"y"` or `"sample_weight"` of a batch.
    """

    op: Op | None
    elements: np.ndarray
    result: str
    shape: tuple
    phase: str = "forward"
    cause: str | None = None
    part: str | None = None

    @property
    def is_computed(self):
        """Whether an op made it, of what is no data and no weight."""
        return self.op is not None and self.cause not in ("data", "weight")

    @property
    def key(self):
        """What makes two origins the same one."""
        return (self.part, -1 if self.op is None else self.op.number)


def origin_of(op, array, shape, **known):
    """Makes an `Origin`.

    Args:
        op: The `Op`, or `None`.
        array: The numbers that are not finite.
        shape: What their indices are of; see `Origin`.
        **known: Further fields of `Origin`.
    """
    elements = bad_elements(array)
    first = array[tuple(elements[0])] if len(elements) else np.nan
    result = "nan" if np.isnan(first) else "inf" if first > 0 else "-inf"
    return Origin(op, elements, result, shape, **known)


def nonfinite_cause(origin):
    """Returns the cause word of an origin, see `Finding.cause`."""
    if origin.cause is not None or origin.op is None:
        return origin.cause
    if origin.op.has_own_gradient and origin.phase == "backward":
        return "unexplained"
    if origin.op.type in SUMS_OF_PRODUCTS:
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
    if num_samples and origin.shape and origin.shape[0] == num_samples:
        rows = sorted({int(element[0]) for element in origin.elements})
        known["samples"] = rows[:_MOST_SAMPLES]
        known["num_samples"] = len(rows)
    return known


def _values(origin):
    """What went into the op at the first element that is not finite."""
    op = origin.op
    if op is None or not len(origin.elements):
        return []
    found = []
    for tensor in op.inputs:
        values = tensor.array()
        if values is None:
            continue
        try:
            values = np.broadcast_to(values, origin.shape)
        except ValueError:
            return []
        found.append(float(np.real(values[tuple(origin.elements[0])])))
    return found[:_MOST_VALUES]


def _limits(tensors):
    """The smallest and largest finite number that went in."""
    arrays = [tensor.array() for tensor in tensors]
    known = [a[np.isfinite(a)] for a in arrays if a is not None]
    known = [np.real(a) for a in known if a.size]
    if not known:
        return None
    return [
        float(min(a.min() for a in known)),
        float(max(a.max() for a in known)),
    ]


_MOST_ORIGINS = 3
_OWN_GRADIENT = "its custom gradient function returns NaN or Inf"
_BACK = {"phase": "backward"}


def nonfinite_findings(
    recorded, variables, paths, model=None, compiled=False, replay=None
):
    """Says where the numbers of a recorded step cease to be finite.

    A NaN is followed back to the op that made it, and from there an Inf to
    the op that made that of finite numbers; an Inf that the code put in as
    a constant (a mask) is nobody's fault.

    Args:
        recorded: The `Trace` of the step that was recorded.
        variables: The trainable variables to look at, or the predictions of
            a loss alone.
        paths: The path of each.
        model: The model that ran, or `None` for a loss alone.
        compiled: See `Gradients`.
        replay: Runs the step with numbers in place of some that are not
            finite, see `hidden_origins.hidden_ops`; `None` where it cannot
            be run again.

    Returns:
        A list of `Finding`s, one for each line where it begins; empty if
        everything is finite. Notes of the first say which others it hides.
    """
    search = _Search(recorded, variables, model)
    origins, numbers = search.forward(), _not_finite(recorded, variables)
    if not origins:
        origins, found = search.backward(compiled)
        numbers = numbers or found
    elif not numbers:
        # A loss without a value may have a derivative all the same.
        numbers = search.trained_by_bad_losses()
    hit = tuple(paths[number] for number in numbers)
    findings = {}
    for origin in origins:
        finding = search.finding(origin, hit)
        key = (finding.place.file, finding.place.line, finding.cause)
        if finding.place.line is None:
            key += (finding.op, finding.layer)
        findings.setdefault(key, finding)
    found = list(findings.values())[:_MOST_ORIGINS]
    if found:
        notes = search.hidden(origins, found, numbers, compiled, replay)
        found[0] = dataclasses.replace(
            found[0], notes=(*found[0].notes, *notes)
        )
    return found


def _not_finite(recorded, variables):
    """The numbers of the variables that were given NaN or Inf."""
    bad = {
        id(variable)
        for group, gradients in recorded.applied
        for variable, gradient in zip(group, gradients, strict=True)
        if not is_finite(recorded.graph.oracle.array(gradient))
    }
    return [n for n, variable in enumerate(variables) if id(variable) in bad]


class _Search:
    def __init__(self, recorded, variables, model):
        self._recorded, self._model = recorded, model
        self._graph = recorded.graph
        self._variables = list(variables)
        self._places = Places(recorded, model)
        self._parts = {tensor: name for name, tensor in recorded.batch}
        self._calls = [
            call
            for call in recorded.targets
            if any(map(call.is_about, self._variables))
        ]
        self._targets = [t for call in self._calls for t in call.targets]
        self._roots = self._find_roots()

    def _find_roots(self):
        """Where each tensor that is not finite became so: sets of origins."""
        roots = {}
        for tensor, name in self._parts.items():
            if not _is_finite(tensor):
                known = {"part": name, "cause": "data"}
                origin = _origin(None, tensor, **known)
                roots[tensor] = {origin.key: origin}
        for op in self._graph.ops:
            for tensor in op.outputs:
                if tensor.inside in roots:
                    roots[tensor] = roots[tensor.inside]
                elif not _is_finite(tensor):
                    roots[tensor] = self._roots_at(op, tensor, roots)
        return roots

    def _roots_at(self, op, tensor, roots):
        bad = [t for t in op.inputs if not _is_finite(t)]
        if _reads_variable(op):
            origin = _origin(op, tensor, cause="weight")
            return {origin.key: origin}
        if _has_nan(tensor):
            bad = [t for t in bad if _has_nan(t)] or bad
        found = {}
        for source in bad:
            found.update(roots.get(source, {}))
        # An Inf out of Inf alone is passed on; a NaN out of it is made here.
        if not found and (not bad or _has_nan(tensor)):
            origin = _origin(op, tensor)
            found = {origin.key: origin}
        return found

    def forward(self):
        """Returns the origins of a loss that is not finite, in order."""
        found = {}
        for target in self._targets:
            if not _is_finite(target):
                roots = self._roots.get(target, {})
                if not roots and target.op.number >= 0:
                    origin = _origin(target.op, target)
                    roots = {origin.key: origin}
                found.update(roots)
        return sorted(found.values(), key=lambda o: o.key[1])

    def trained_by_bad_losses(self):
        """Returns the numbers of the variables whose loss is not finite."""
        bad = [c for c in self._calls if not all(map(_is_finite, c.targets))]
        return [
            number
            for number, variable in enumerate(self._variables)
            if any(call.is_about(variable) for call in bad)
        ]

    def backward(self, compiled):
        """Returns the origins nearest to the loss, and who is hit."""
        origins, hit = {}, []
        for call in self._calls:
            seen = _BadGradients(self._graph.oracle)
            gradients = Gradients(self._graph, call, seen.see, compiled)
            for number, variable in enumerate(self._variables):
                if not is_finite(gradients.array(variable)):
                    hit.append(number)
                    tensors = self._graph.standing_for(variable)
                    for origin in seen.origins(tensors):
                        origins.update(self._forward_cause(origin))
        found = sorted(origins.values(), key=lambda o: -o.key[1])
        return found, sorted(set(hit))

    def _forward_cause(self, origin):
        """A derivative at Inf is not finite because of what made the Inf."""
        found = {}
        for source in origin.op.inputs:
            for key, root in self._roots.get(source, {}).items():
                known = {"phase": "backward"}
                if root.cause is None:
                    known["cause"] = origin.cause
                found[key] = dataclasses.replace(root, **known)
        return found or {origin.key: origin}

    def hidden(self, origins, findings, numbers, compiled, replay):
        """Returns notes on the origins that some others hide."""
        forward = []
        is_forward = all(o.phase == "forward" for o in origins)
        if replay is not None and is_forward:
            forward = hidden_ops(
                origins,
                replay,
                lambda trace: _Search(
                    trace, self._variables, self._model
                ).forward(),
            )
        hit = [self._variables[number] for number in numbers]
        backward = hidden_derivatives(
            self._recorded, origins, self._calls, hit, compiled
        )
        known = [(f.place.file, f.place.line, f.op) for f in findings]
        return hidden_notes(self._places, known, forward, backward)

    def finding(self, origin, hit):
        """Returns an origin as a `Finding`."""
        op, parts = origin.op, self._parts.items()
        num_samples = next((t.shape[0] for t, _ in parts if t.shape), None)
        if op is not None and not self._places.is_of_batch(op):
            num_samples = None
        evidence = origin_evidence(origin, num_samples)
        bad = sorted({n for t, n in parts if not _is_finite(t)})
        if bad:
            evidence["data"] = bad
        known = {}
        if op is not None:
            place, notes = self._places.place(op)
            if op.has_own_gradient and origin.phase == "backward":
                notes = (*notes, _OWN_GRADIENT)
            known = {
                "place": place,
                "notes": notes,
                "op": op.type,
                "layer": op.layer,
                "loss": self._places.loss_of(op),
                "path": self._places.path(self._targets, op),
                **inputs_of(op),
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

    def __init__(self, oracle):
        self._oracle = oracle
        self._bad = collections.defaultdict(list)
        self._begun = {}

    def see(self, pullback):
        """Takes in the gradient of one op."""
        op = pullback.op
        incoming = list(map(self._oracle.array, pullback.incoming))
        begins = all(map(is_finite, incoming))
        for tensor, gradient in zip(op.inputs, pullback.outgoing, strict=False):
            array = self._oracle.array(gradient)
            if is_finite(array):
                continue
            self._bad[tensor].append(op)
            if begins and op not in self._begun:
                is_rows = self._oracle.is_rows(gradient)
                shape = array.shape if is_rows else tensor.shape
                self._begun[op] = _begun(op, incoming, tensor, array, shape)

    def origins(self, tensors):
        """Returns where the gradient of some tensors ceased to be finite."""
        found, queue, seen = [], list(tensors), set()
        while queue:
            for op in self._bad[queue.pop()]:
                if op in seen:
                    continue
                seen.add(op)
                if op in self._begun:
                    found.append(self._begun[op])
                    continue
                queue += op.outputs
                if not any(self._bad[t] for t in op.outputs):
                    # Finite gradients whose sum is not.
                    found.append(_origin(op, op.outputs[0], **_BACK))
        return found


def _begun(op, incoming, tensor, array, shape):
    cause = None
    elements = bad_elements(array)
    for output, values in zip(op.outputs, incoming, strict=True):
        if values is None or output.shape != tensor.shape:
            continue
        if not np.any(values[tuple(elements.T)]):
            cause = "unchosen"
    return origin_of(op, array, shape, **_BACK, cause=cause)


def _reads_variable(op):
    kinds = {tensor.kind for tensor in op.inputs}
    return RESOURCE in kinds and DATA not in kinds


def _origin(op, tensor, **known):
    """The `Origin` of a tensor that is not finite itself."""
    return origin_of(op, tensor.array(), tensor.shape, **known)


def _is_finite(tensor):
    return is_finite(tensor.array())


def _has_nan(tensor):
    values = tensor.array()
    return values is not None and bool(np.isnan(values).any())
