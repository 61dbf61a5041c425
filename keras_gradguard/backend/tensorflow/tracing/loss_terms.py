"""The terms that the loss of a step is the sum of."""

import collections

from keras_gradguard.backend.tensorflow.internals.batches import tensors_of
from keras_gradguard.graph.trace import ADDED, LOSS, REGULARIZER, LossTerm
from keras_gradguard.model.losses import compiled_losses


def loss_terms_of(model, trace):
    """Returns the terms of a traced step.

    Regularisers of weights are one term: each leads to its own weight, so
    that their sum has the same gradients and a deep model no row for each.

    Args:
        model: The compiled model.
        trace: The `Seen`.

    Returns:
        A list of `LossTerm`s: compiled losses, `add_loss`, regularisers.
    """
    added = {id(tensor): call for call in trace.added for tensor in call.values}
    extra = {id(t): t for t in tensors_of(trace.extra_losses)}
    calls = [
        call
        for call in trace.losses
        if not call.is_inner and id(call.value) not in extra
    ]
    outputs = compiled_losses(model) or ()
    if len(outputs) != len(calls):
        outputs = (None,) * len(calls)
    found = [
        (call.name, output, LOSS, (call.value,))
        for call, output in zip(calls, outputs, strict=True)
    ]
    of_weights = []
    for key, tensor in extra.items():
        call = added.get(key)
        if call is None:
            of_weights.append(tensor)
            continue
        kind, name = ADDED, "add_loss"
        if call.is_activity:
            kind, name = REGULARIZER, "activity_regularizer"
        layer = getattr(call.layer, "path", None) or call.layer.name
        found.append((name, layer, kind, (tensor,)))
    found.sort(key=lambda item: item[2] == REGULARIZER)
    if of_weights:
        name = _regularizer_name(model)
        found.append((name, None, REGULARIZER, tuple(of_weights)))
    return [
        LossTerm(name, kind, values)
        for name, (_, _, kind, values) in zip(
            _unique([item[:2] for item in found]), found, strict=True
        )
    ]


def name_losses(model, trace):
    """Gives a trace its terms, and its losses the names that they have.

    Args:
        model: The compiled model.
        trace: The `Seen`.
    """
    if trace.error is not None:
        return
    trace.terms = loss_terms_of(model, trace)
    trace.names = {
        id(value): term.name for term in trace.terms for value in term.values
    }
    for call in trace.losses:
        call.name = trace.names.get(id(call.value), call.name)


def _regularizer_name(model):
    used = [variable.regularizer for variable in model.trainable_variables]
    names = {type(one).__name__ for one in used if one is not None}
    return names.pop() if len(names) == 1 else "regularizers"


def _unique(items):
    """Names with their place where they are not unique, and a number."""
    repeated = collections.Counter(name for name, _ in items)
    names = [
        f"{name} ({place})" if place and repeated[name] > 1 else name
        for name, place in items
    ]
    seen = collections.Counter()
    for number, name in enumerate(names):
        seen[name] += 1
        if seen[name] > 1:
            names[number] = f"{name} #{seen[name]}"
    return names
