"""An update that makes weights NaN or Inf, though its gradient is finite."""

import math

import numpy as np

from keras_gradguard.diagnosis.places import Places, inputs_of
from keras_gradguard.graph.backward import Gradients
from keras_gradguard.records.finding import Finding

_MOST_NAMES = 5


def explain_spoiled_update(step, spoiled, large, recorded, rate):
    """Returns the `Finding` of an update that makes something NaN or Inf.

    Args:
        step: The `Step`.
        spoiled: The variables that were not finite behind it: weights, and
            the state of the optimizer.
        large: Paths of the variables whose gradient has a square that float32
            cannot hold.
        recorded: The `Trace` of the step, `None` where nobody has run it.
        rate: The learning rate, a float, or `None`.
    """
    ids = set(map(id, spoiled))
    pairs = zip(step.variables, step.paths, strict=True)
    hit = tuple(path for variable, path in pairs if id(variable) in ids)
    known = set(map(id, step.variables))
    state = [v.path for v in spoiled if id(v) not in known]
    evidence = {}
    if rate is not None:
        evidence["learning_rate"] = rate
    largest = _largest_gradient(recorded)
    if largest is not None:
        evidence["largest_gradient"] = largest
    if state:
        evidence["optimizer_state"] = state[:_MOST_NAMES]
    return Finding(
        **_where_it_grows(step, recorded, largest),
        kind="nonfinite",
        cause="update",
        # The state of an optimizer spoils the weights in the next update.
        variables=hit or large or step.paths,
        evidence=evidence,
    )


# What one op adds to the gradient, of all that it grows by: at least half of
# its orders of magnitude, and a thousandfold.
_LEAST_SHARE, _LEAST_GROWTH = 0.5, 1e3


def _where_it_grows(step, recorded, largest):
    """The place of the op that makes most of a gradient's size, if one does.

    Returns:
        Fields of a `Finding`, none if no op stands out.
    """
    if largest is None or largest < _LEAST_GROWTH:
        return {}
    seen = _Growth(recorded.graph.oracle)
    for call in recorded.targets:
        if any(map(call.is_about, step.variables)):
            Gradients(recorded.graph, call, seen.see)
    share = math.log10(seen.growth) / math.log10(largest)
    if seen.op is None or share < _LEAST_SHARE or seen.growth < _LEAST_GROWTH:
        return {}
    places = Places(recorded, step.model)
    place, notes = places.place(seen.op)
    growth = (
        f"the gradient grows from {seen.before:.1e} to {seen.after:.1e} at "
        f"`{seen.op.type}`"
    )
    return {
        "place": place,
        "notes": (*notes, growth),
        "op": seen.op.type,
        "layer": seen.op.layer,
        "loss": places.loss_of(seen.op),
        **inputs_of(seen.op),
    }


class _Growth:
    """Sees the op whose derivative makes a gradient grow most."""

    def __init__(self, oracle):
        self._oracle = oracle
        self.op, self.growth, self.before, self.after = None, 1.0, 0.0, 0.0

    def see(self, pullback):
        """Takes in the gradient of one op."""
        before = self._size(pullback.incoming)
        after = self._size(pullback.outgoing)
        if before > 0 and math.isfinite(after) and after > self.growth * before:
            self.op, self.growth = pullback.op, after / before
            self.before, self.after = before, after

    def _size(self, gradients):
        return _largest(map(self._oracle.array, gradients)) or 0.0


def _largest_gradient(recorded):
    """The largest absolute element of all gradients, `None` if not known."""
    if recorded is None or recorded.error is not None:
        return None
    largest = _largest(
        recorded.graph.oracle.array(gradient)
        for _, gradients in recorded.applied
        for gradient in gradients
    )
    return largest if largest is not None and math.isfinite(largest) else None


def _largest(arrays):
    sizes = [float(np.abs(a).max()) for a in arrays if a is not None and a.size]
    return max(sizes, default=None)
