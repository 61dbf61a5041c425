"""An update that makes weights NaN or Inf, though its gradient is finite."""

import math

import numpy as np

from keras_gradguard.records.finding import Finding

_MOST_NAMES = 5


def explain_spoiled_update(step, spoiled, recorded, rate):
    """Returns the `Finding` of an update that was taken back.

    Args:
        step: The `Step`.
        spoiled: The variables that were not finite behind it: weights, and
            the state of the optimizer.
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
        kind="nonfinite",
        cause="update",
        # The state of an optimizer spoils the weights in the next update.
        variables=hit or step.paths,
        evidence=evidence,
    )


def _largest_gradient(recorded):
    """The largest absolute element of all gradients, `None` if not known."""
    if recorded is None or recorded.error is not None:
        return None
    found = [
        recorded.graph.oracle.array(gradient)
        for _, gradients in recorded.applied
        for gradient in gradients
    ]
    sizes = [float(np.abs(a).max()) for a in found if a is not None and a.size]
    largest = max(sizes, default=None)
    return largest if largest is not None and math.isfinite(largest) else None
