"""Step 4: where a gradient becomes zero, in a recorded step."""

import collections
import dataclasses

import tensorflow as tf

from keras_gradguard.diagnosis.backward import Gradients
from keras_gradguard.diagnosis.lineage import Lineage
from keras_gradguard.diagnosis.recording import RanOp
from keras_gradguard.diagnosis.values import array, is_zero
from keras_gradguard.diagnosis.zero_causes import cause_of, is_satisfied
from keras_gradguard.diagnosis.zero_origin import origin_of
from keras_gradguard.finding import Finding

_ABOVE_NOISE = 1e3
# A sum of float32s that is zero but for rounding leaves more than that.
_BELOW_ROUNDING = 1e-20


@dataclasses.dataclass(eq=False)
class Stop:
    """An op that gets a gradient and passes none on.

    Args:
        op: The `RanOp`.
        tensor: The input whose gradient is zero.
        incoming: The gradients of the op's outputs, arrays or `None`.
        cancels: Whether several uses of `tensor` have gradients that are
            not zero and add up to zero.
        num_uses: How many uses it has through which a gradient may come.
    """

    op: RanOp
    tensor: tf.Tensor
    incoming: tuple = ()
    cancels: bool = False
    num_uses: int = 1


def zero_findings(recording, variables, paths, model, noise=0.0):
    """Says which op stops the gradient of variables that get only zeros.

    Args:
        recording: A `Recording` of the step.
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
    lineage = Lineage(recording, model)
    hit, stops = collections.defaultdict(set), {}
    for call in recording.trace.targets:
        seen = _Stops(noise)
        asked = _asked_for(call, variables)
        gradients = Gradients(recording, call, seen.see) if asked else None
        for number in asked:
            handle = variables[number].value.handle
            if is_zero(gradients.of(handle), noise):
                for stop in seen.of(handle):
                    stops.setdefault(stop.op, (stop, call))
                    hit[stop.op].add(number)
    _trace_back(stops, hit, variables, lineage)
    _merge(stops, hit, lineage)
    findings = []
    for op, (stop, call) in stops.items():
        cause = cause_of(stop, lineage)
        if cause is None or is_satisfied(stop, cause, lineage, noise):
            continue
        # What has settled is as small as rounding too.
        is_rounding = noise > _BELOW_ROUNDING
        if is_rounding and (stop.cancels or cause != "constant_loss"):
            continue
        place, notes = lineage.place(op)
        largest = [abs(g).max() for g in stop.incoming if g is not None]
        finding = Finding(
            kind="zero",
            cause=cause,
            place=place,
            notes=notes,
            op=op.type,
            layer=recording.layer_of(op),
            loss=lineage.loss_of(op),
            path=lineage.path(call.targets, op),
            variables=tuple(paths[number] for number in sorted(hit[op])),
            evidence={"incoming": float(max(largest))} if largest else {},
        )
        findings.append(finding)
    return sorted(findings, key=lambda f: -len(f.variables))


def _trace_back(stops, hit, variables, lineage):
    """Puts where zeros begin in the place of what gets them."""
    for op, (stop, call) in list(stops.items()):
        if cause_of(stop, lineage) != "zero_input":
            continue
        handles = [variables[number].value.handle for number in hit[op]]
        origin = origin_of(stop, handles, lineage)
        if origin.op is not op:
            del stops[op]
            stops.setdefault(origin.op, (origin, call))
            hit[origin.op] |= hit.pop(op)


def _merge(stops, hit, lineage):
    """What gets zeros because another layer gives zeros is that one's."""
    for op in list(stops):
        before = lineage.ancestors(op.inputs)
        first = next((o for o in stops if o is not op and o in before), None)
        if first is not None and cause_of(stops[op][0], lineage) == (
            "zero_input"
        ):
            hit[first] |= hit.pop(op)
            del stops[op]


def _asked_for(call, variables):
    """The numbers of the variables that a tape was asked for."""
    asked = {id(source) for source in call.sources}
    return [
        number
        for number, variable in enumerate(variables)
        if asked & {id(variable), id(variable.value)}
    ]


class _Stops:
    """Sees where a gradient goes in and only zeros come out."""

    def __init__(self, noise):
        self._noise = noise
        self._uses = collections.defaultdict(list)

    def see(self, pullback):
        """Takes in the gradient of one op."""
        op = pullback.op
        limit = _ABOVE_NOISE * self._noise
        arrives = any(
            g is not None and not is_zero(g, limit) for g in pullback.incoming
        )
        incoming = None
        for tensor, gradient in zip(op.inputs, pullback.outgoing, strict=False):
            known = array(gradient)
            # A tensor of no rows has nothing to pass on.
            if known is None or not known.size:
                continue
            nothing = is_zero(gradient, self._noise)
            stops = arrives and nothing
            if stops and incoming is None:
                incoming = tuple(
                    array(None if g is None else tf.convert_to_tensor(g))
                    for g in pullback.incoming
                )
            use = _Use(op, nothing, incoming if stops else None)
            self._uses[id(tensor)].append(use)

    def of(self, tensor):
        """Returns the `Stop`s between the loss and a tensor."""
        found, queue, seen = [], [tensor], set()
        while queue:
            tensor = queue.pop()
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            uses = self._uses[id(tensor)]
            passing = [use for use in uses if not use.is_zero]
            if passing:
                last = max(passing, key=lambda use: use.op.number)
                number = len(uses)
                found.append(Stop(last.op, tensor, (), True, number))
                continue
            for use in uses:
                if use.incoming is not None:
                    found.append(Stop(use.op, tensor, use.incoming))
                else:
                    queue += use.op.outputs
        return found


@dataclasses.dataclass(frozen=True)
class _Use:
    """One use of a tensor: does a gradient come back, did one go in."""

    op: RanOp
    is_zero: bool
    incoming: tuple | None
