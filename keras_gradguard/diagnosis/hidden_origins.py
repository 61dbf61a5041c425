"""NaN and Inf that the first one of a step hides.

Behind a NaN all is NaN. So the step is looked at as it would be without the
first one: numbers stand in for what was not finite. What they are nobody
knows, so only what does not hang on them counts.
"""

from keras_gradguard.graph.backward import Gradients
from keras_gradguard.graph.ops import is_finite
from keras_gradguard.records.text import path_from_here

# Opposite in sign: what is outside of the domain of a logarithm or a root for
# both of them is so for whatever the correction gives.
_STAND_INS = (0.37, -0.65)
_MOST = 3


def hidden_ops(origins, replay, origins_of):
    """Returns the ops that make NaN or Inf once some others do not.

    Args:
        origins: The `Origin`s of a loss that is not finite.
        replay: Runs the step with numbers in place of what some ops gave that
            was not finite; takes a dict of number to type of these ops, and
            the number to put there.
        origins_of: Returns the `Origin`s of a loss in such a `Trace`.

    Returns:
        A list of `(op, result)`; the op is one of the last replay.
    """
    instead = {o.op.number: o.op.type for o in origins if o.is_computed}
    if len(instead) < len(origins):
        # A batch or a weight that is not finite makes nothing of its own.
        return []
    found = None
    for value in _STAND_INS:
        trace = replay(instead, value)
        if trace.error is not None:
            return []
        now = {
            (origin.op.number, origin.op.type): (origin.op, origin.result)
            for origin in origins_of(trace)
            if origin.is_computed and origin.op.number not in instead
        }
        found = now if found is None else {k: now[k] for k in now if k in found}
    return list(found.values())


def hidden_derivatives(recorded, origins, calls, variables, compiled=False):
    """Returns the ops that turn finite gradients into NaN or Inf.

    A small number goes on in place of what is not finite; a gradient that a
    mask makes zero stays zero.

    Args:
        recorded: The `Trace` of the step that was recorded.
        origins: The `Origin`s that are known.
        calls: The `TapeCall`s to take back.
        variables: The variables, or predictions, that are hit.
        compiled: See `Gradients`.

    Returns:
        A list of `Op`s, the one nearest to the loss first. Those that a
        correction of the origins may change are left out.
    """
    if any(origin.op is None for origin in origins):
        return []
    graph = recorded.graph
    changed = [t for origin in origins for t in origin.op.outputs]
    changed = {*changed, *graph.descendants(changed)}
    found = []
    for call in calls:
        ways = _Ways(graph.oracle)
        Gradients(graph, call, ways.see, compiled, finite=True)
        for variable in variables:
            found += ways.singular(graph.standing_for(variable))
    return sorted(
        (
            op
            for op in dict.fromkeys(found)
            if changed.isdisjoint((*op.inputs, *op.outputs))
            and all(is_finite(t.array()) for t in (*op.inputs, *op.outputs))
        ),
        key=lambda op: -op.number,
    )


class _Ways:
    """Follows gradients to the variables, and sees where one is not finite."""

    def __init__(self, oracle):
        self._oracle = oracle
        self._givers, self._singular = {}, set()

    def see(self, pullback):
        """Takes in the gradient of one op; what comes in is finite."""
        op = pullback.op
        for tensor, gradient in zip(op.inputs, pullback.outgoing, strict=False):
            if gradient is not None:
                self._givers.setdefault(tensor, []).append(op)
                if not is_finite(self._oracle.array(gradient)):
                    self._singular.add(op)

    def singular(self, tensors):
        """Returns the ops on the way to some tensors that give NaN or Inf."""
        queue, seen = list(tensors), set()
        while queue:
            for op in self._givers.get(queue.pop(), ()):
                if op not in seen:
                    seen.add(op)
                    queue += op.outputs
        return seen & self._singular


def hidden_notes(places, known, forward, backward):
    """Returns a sentence for each line that is hidden.

    Args:
        places: The `Places` of the step.
        known: `(file, line, op type)` of what the findings name.
        forward: See `hidden_ops`.
        backward: See `hidden_derivatives`.
    """
    notes, told = [], set(known)
    found = [(op, result) for op, result in forward]
    for op, result in found + [(op, None) for op in backward]:
        place, _ = places.place(op)
        key = (place.file, place.line, op.type)
        if key in told or (place.line is None and op.layer is None):
            continue
        told.add(key)
        where = f"in layer {op.layer}"
        if place.line is not None:
            where = f"on {path_from_here(place.file)}:{place.line}"
            where += f", `{place.source}`" if place.source else ""
        what = f"`{op.type}` gives {_WORDS[result]}"
        if result is None:
            what = f"the derivative of `{op.type}` is not finite"
        notes.append(f"correcting this uncovers another one: {what} ({where})")
    return tuple(notes[:_MOST])


_WORDS = {"nan": "NaN", "inf": "Inf", "-inf": "-Inf", None: ""}
