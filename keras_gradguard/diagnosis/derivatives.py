"""Losses that are made of derivatives of a prediction."""

import dataclasses

from keras_gradguard.graph.ops import Op
from keras_gradguard.records.finding import Finding
from keras_gradguard.source.frames import gradient_function

FLAT = "flat_derivative"
ONLY = "only_derivative"


@dataclasses.dataclass(frozen=True)
class Flat:
    """A derivative that TensorFlow knows to be zero everywhere.

    Args:
        op: The op that made the zeros, in the gradient function of another.
        type: The type of that other op, e.g. `"ReluGrad"`.
        layer: Path of the layer whose op it is the derivative of, or `None`.
    """

    op: Op
    type: str
    layer: str | None


def flat_derivatives(trace, variables):
    """Returns the `Flat` derivatives that the loss of a step is made of.

    The gradient function of an op returns a tensor of zeros for an input
    where the derivative is zero whatever the data are. It is told apart from
    zeros that such a function goes on to compute with.

    Args:
        trace: A `Trace` of a step.
        variables: The variables that the loss should train.
    """
    inner = _inner_targets(trace, variables)
    if not inner:
        return []
    targets = [t for call in trace.targets for t in call.targets]
    losses = [t for t in targets if t not in inner]
    found = []
    for op in trace.graph.ancestors(losses):
        kind = None if op.inputs and op.type != "ZerosLike" else _maker(op)
        if kind is None:
            continue
        users = [user for t in op.outputs for user in t.consumers()]
        if any(_maker(user) == kind for user in users):
            continue
        forward = [o for o in trace.graph.ops if o.type == kind]
        layers = [t.op.layer for o in forward for t in o.inputs if t.op.layer]
        if forward:
            found.append(Flat(op, kind, layers[0] if layers else None))
    return found


def _maker(op):
    return gradient_function(op.frames)


def _inner_targets(trace, variables):
    """The tensors whose derivatives are computed for the loss, a set."""
    inner = [
        call for call in trace.targets if not any(map(call.is_about, variables))
    ]
    return {target for call in inner for target in call.targets}


def is_only_derived(trace, variables, later):
    """Returns whether what hangs on a variable is only differentiated.

    Args:
        trace: A `Trace` of a step.
        variables: The variables that the loss should train.
        later: The tensors that are computed from one of them.
    """
    return any(t in later for t in _inner_targets(trace, variables))


def by_derivative(location, numbers):
    """Explains variables of which the loss has only zero derivatives.

    Args:
        location: A `Location`.
        numbers: Indices of variables whose gradient is zero, or missing
            because no loss depends on them.

    Returns:
        `(findings, numbers)`: at most one `Finding`, and the others.
    """
    trace, variables = location.trace, location.variables
    flat = flat_derivatives(trace, variables) if numbers else []
    if not flat:
        return [], list(numbers)
    graph, hit = trace.graph, []
    for number in numbers:
        later = graph.descendants(location.tensors[number])
        if any(t.op.type == flat[0].type for t in later) or is_only_derived(
            trace, variables, later
        ):
            hit.append(number)
    paths = [location.paths[number] for number in hit]
    found = [_finding(flat[0], location.places, paths)] if hit else []
    return found, [number for number in numbers if number not in hit]


def _finding(flat, places, paths):
    place, notes = places.place(flat.op)
    if flat.layer is not None:
        notes = (*notes, f"this is the activation of `{flat.layer}`")
    return Finding(
        kind="zero",
        cause=FLAT,
        op=flat.type,
        layer=flat.layer,
        place=place,
        notes=notes,
        variables=tuple(paths),
    )
