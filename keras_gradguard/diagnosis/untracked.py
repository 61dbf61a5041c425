"""Weights that nobody trains: Keras does not know them, or all are frozen."""

import collections
import gc

import keras

from keras_gradguard.diagnosis.cuts import Location
from keras_gradguard.diagnosis.outside_tape import first_unrecorded
from keras_gradguard.graph.edges import written_tensors
from keras_gradguard.model.layers import (
    is_default_step,
    layers_of,
    own_weights,
)
from keras_gradguard.model.optimizers import optimizers_of, variables_of
from keras_gradguard.records.finding import Finding
from keras_gradguard.source.held import Makers, held_variables

_ALONE = "only `{name}` holds it; Keras trains the variables that a layer holds"
_CAPTURED = "`{name}` is used there, but no layer of the model holds it"
_MOST_NAMED = 4


def explain_untracked(step, graph=None):
    """Finds variables that the loss would train and that nobody updates.

    Args:
        step: The `Step`.
        graph: Weak reference to the graph of its last update as the backend
            has it, `None` if it runs eagerly or is not known. It is asked
            first: where Keras knows all that the step reads, nothing else
            is looked at.

    Returns:
        A list of `Finding`s of kind `unused`, one for each line.
    """
    known = _known_to(step.model)
    native, whole = graph and graph(), None
    if native is not None:
        whole = step.evidence.step_graph(native, known)
        if whole is None:
            return []
    held = held_variables(step.model, _Among(known).holds)
    if whole is not None:
        held = _read_only(whole, held)
    if not held:
        return []
    trace = step.evidence.traced()
    if trace.error is not None:
        return []
    makers = Makers()
    lost = [
        one
        for one in _trained_by_loss(step, trace, _read_only(trace.graph, held))
        if not makers.is_written(one)
    ]
    elsewhere = _Among(_trained_elsewhere() if lost else ())
    lost = [one for one in lost if not elsewhere.holds(one.variable)]
    return _findings(lost, makers)


def _known_to(model):
    found = [*model.variables, *model.metrics_variables]
    for optimizer in optimizers_of(model):
        found.extend(optimizer.variables)
        if optimizer.built:
            found.extend(variables_of(optimizer))
    return found


def _trained_elsewhere():
    """What any optimizer trains, or a compiled model is to train."""
    found = []
    for value in gc.get_objects():
        # Asking for `__class__` would wake up lazy modules and proxies.
        if issubclass(type(value), keras.optimizers.Optimizer):
            if getattr(value, "built", False):
                found.extend(variables_of(value))
        elif issubclass(type(value), keras.Model):
            if getattr(value, "compiled", False):
                found.extend(value.trainable_variables)
    return found


class _Among:
    """Some variables, each known by itself and by what it stands for.

    Args:
        variables: The variables; they are held, as an id may come again.
    """

    def __init__(self, variables):
        self._held = [one for v in variables for one in (v, _value_of(v))]
        self._ids = set(map(id, self._held))

    def holds(self, variable):
        """Returns whether a variable is one of them."""
        value = _value_of(variable)
        return id(variable) in self._ids or id(value) in self._ids


def _value_of(variable):
    """The `tf.Variable` of one of Keras'; `value` of that is a method."""
    value = getattr(variable, "value", variable)
    return variable if callable(value) else value


def _read_only(graph, held):
    """Those that a step reads and does not write."""
    read = [(one, graph.standing_for(one.variable)) for one in held]
    if not any(tensors for _, tensors in read):
        return []
    written = written_tensors(graph)
    return [one for one, t in read if t and written.isdisjoint(t)]


def _trained_by_loss(step, trace, held):
    """Those that a loss has a gradient for, and no tape is asked for."""
    # A model that a loss or a step calls is often meant to stay as it is.
    returned = _returned(step.model, trace)
    feeding = {
        tensor for op in trace.graph.ancestors(returned) for tensor in op.inputs
    }
    held = [
        one
        for one in held
        if one.owner is None
        or not feeding.isdisjoint(trace.graph.standing_for(one.variable))
    ]
    if not held:
        return []
    location = Location(
        trace,
        step.model,
        [one.variable for one in held],
        [one.path for one in held],
    )
    inside = location.of_losses(returned)
    return [
        one
        for number, one in enumerate(held)
        if not location.was_asked_for(number)
        and location.distance(number) == 0
        and is_taped(location, number)
        and (one.owner is None or inside.distance(number) == 0)
    ]


def is_taped(location, number):
    """Returns whether the tape has recorded the way to a variable.

    Args:
        location: A `Location`.
        number: Index of the variable, at distance 0.
    """
    flow = location.flow_of(number)
    tensor = min(location.tensors[number], key=flow.distance)
    return first_unrecorded(location.trace, flow.path(tensor)) is None


def _returned(model, trace):
    """What the layers that Keras knows have returned."""
    tracked = set(map(id, layers_of(model)))
    return [
        tensor
        for layer, tensors in trace.returned()
        if id(layer) in tracked
        for tensor in tensors
        if tensor.op.graph is trace.graph
    ]


def _findings(held, makers):
    groups = collections.defaultdict(list)
    for one in held:
        cause = "untracked_variable" if one.owner is None else "untracked_layer"
        layer = one.layer or one.owner
        layer = None if layer is None else layer.path or layer.name
        groups[cause, layer, makers.place(one), one.name].append(one)
    return [
        Finding(
            kind="unused",
            cause=cause,
            place=place,
            layer=layer,
            variables=tuple(dict.fromkeys(one.path for one in members)),
            notes=_where(members[0], place),
        )
        for (cause, layer, place, _), members in groups.items()
    ]


def _where(held, place):
    """Where no line was found, what holds it."""
    if place.line is not None or not held.name:
        return ()
    note = _ALONE if held.owner is None else _CAPTURED
    return (note.format(name=held.name),)


def explain_frozen(model, has_updates=False):
    """Says which layers leave a model without anything to train.

    Args:
        model: A compiled model.
        has_updates: Whether its step makes an update all the same, as one
            does that was traced before the model was frozen.

    Returns:
        A list of one `Finding`, or of none: something can be trained, or
        the model has no weights that ever could.
    """
    is_own = not is_default_step(model)
    if has_updates or is_own or model.trainable_variables:
        return []
    frozen = [v for layer in layers_of(model) for v in own_weights(layer)]
    if not frozen:
        return []
    names = _frozen_layers(model)
    shown = ", ".join(f"`{name}`" for name in names[:_MOST_NAMED])
    more = len(names) - _MOST_NAMED
    shown += f" (+{more} more)" if more > 0 else ""
    return [
        Finding(
            kind="not_applied",
            cause="frozen",
            layer=names[0] if len(names) == 1 else None,
            variables=tuple(v.path for v in frozen),
            notes=(f"trainable=False is set on {shown}",) if names else (),
        )
    ]


def _frozen_layers(model):
    """Paths of the outermost layers that are frozen and have weights."""
    inside, found = set(), []
    for layer in layers_of(model):
        if layer.trainable or id(layer) in inside:
            continue
        parts = layers_of(layer)
        inside |= set(map(id, parts))
        if any(map(own_weights, parts)):
            found.append(layer.path or layer.name)
    return found
