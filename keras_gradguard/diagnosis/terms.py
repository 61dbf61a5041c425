"""Step 4: losses that train nothing while something else hides it."""

import dataclasses

import tensorflow as tf

from keras_gradguard.diagnosis import keras_internals, source
from keras_gradguard.diagnosis.edges import Context, Value, edges
from keras_gradguard.diagnosis.failure import failure_finding
from keras_gradguard.diagnosis.flow import Flow
from keras_gradguard.diagnosis.locate import Location
from keras_gradguard.diagnosis.trace import trace_step
from keras_gradguard.diagnosis.unused import unused_findings

_EAGER_NOTE = (
    "run_eagerly=True lets this train: each batch takes one way, and no "
    "gradient tells which way would be better"
)
_NOTE = "a regulariser or another loss still moves some of these variables"


def explain_terms(step):
    """Looks for losses that train nothing while other terms hide it.

    Args:
        step: The `Step`.

    Returns:
        A list of `Finding`s, empty if every loss trains what it depends on.
        A Python `if` on a tensor that only eager mode lets pass is one
        without variables.
    """
    model = step.model
    is_eager = model.run_eagerly
    several = isinstance(model.loss, (list, tuple, dict))
    if not (is_eager or several or keras_internals.has_extra_losses(model)):
        return []
    trace = trace_step(model, step.data)
    if trace.error is not None:
        finding = failure_finding(trace.error)
        if not is_eager or getattr(finding, "cause", "") != "tensor_as_bool":
            return []
        return [dataclasses.replace(finding, notes=(_EAGER_NOTE,))]
    return _hidden(step, trace)


def _hidden(step, trace):
    batch = {tensor.name for tensor in trace.batch}
    extra = [t for t in trace.extra_losses if isinstance(t, tf.Tensor)]
    # Keras' own terms are regularisers; those of the user have a line.
    on_batch = [
        t
        for t in extra
        if _depends_on(trace, t, batch)
        and source.op_place(t.op).line is not None
    ]
    on_weights = [t for t in extra if all(t is not o for o in on_batch)]
    terms = [(call.name, call.value) for call in trace.losses]
    terms += [("add_loss", term) for term in on_batch]
    return _lost_in_all(step, trace, on_weights) or _lost_terms(
        step, trace, terms
    )


def _lost_in_all(step, trace, on_weights):
    """Variables that only regularisers train, though data leads to them."""
    location = _location(step, trace, stops=on_weights)
    everything = range(len(step.variables))
    distances = [location.distance(n) for n in everything]
    cut = [n for n in everything if 0 < distances[n] < float("inf")]
    with_regularisers = _location(step, trace)
    moved = [n for n in cut if with_regularisers.distance(n) == 0]
    unused = [
        n
        for n in everything
        if distances[n] == float("inf")
        and getattr(step.variables[n], "regularizer", None) is not None
    ]
    found = location.cuts(moved) if moved else []
    return _noted(found + unused_findings(location, unused))


def _lost_terms(step, trace, terms):
    """Loss terms that reach trainable variables only through cuts."""
    targets = [t for call in trace.targets for t in call.targets]
    flow = Flow(trace.graph, targets)
    everything = range(len(step.variables))
    findings = []
    for name, term in terms:
        if flow.distance(term) > 0:
            continue
        location = _location(step, trace, losses=[term])
        distances = [location.distance(n) for n in everything]
        cut = [n for n in everything if 0 < distances[n] < float("inf")]
        if cut and 0 not in distances:
            findings += [
                dataclasses.replace(finding, loss=finding.loss or name)
                for finding in location.cuts(cut)
            ]
    return _noted(findings)


def _location(step, trace, **arguments):
    return Location(trace, step.model, step.variables, step.paths, **arguments)


def _noted(findings):
    return [dataclasses.replace(f, notes=(*f.notes, _NOTE)) for f in findings]


def _depends_on(trace, term, names):
    queue, seen = [Value(Context(trace.graph), term)], set()
    while queue:
        value = queue.pop()
        if value.tensor.name in names:
            return True
        for edge in edges(value):
            if edge.source.key not in seen:
                seen.add(edge.source.key)
                queue.append(edge.source)
    return False
