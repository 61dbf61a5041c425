"""Variables that no loss depends on at all, told apart by cause."""

import ast
import collections
import re

import keras

from keras_gradguard.diagnosis.derivatives import (
    ONLY,
    by_derivative,
    is_only_derived,
)
from keras_gradguard.graph.edges import edges
from keras_gradguard.graph.ops import Context, Value, walk
from keras_gradguard.model.layers import layers_of
from keras_gradguard.records.finding import Finding, Place
from keras_gradguard.source.frames import (
    is_users,
    op_place,
    place_at,
)
from keras_gradguard.source.syntax import tree_of

_MOST_NAMED = 4


def early_place(graph, layer, variable):
    """Finds the function that a weight has a stand-in in.

    Args:
        graph: The graph of a step that does not read the variable.
        layer: The layer that owns the variable.
        variable: A Keras variable.

    Returns:
        The `Place` of the function, at its `tf.function` where it has one,
        or `None` if no function in the graph holds a stand-in.
    """
    scope = re.compile(rf"{re.escape(layer.name)}(_\d+)?")
    for context in Context(graph).everything():
        if context.parent is None:
            continue
        for op in context.graph.ops:
            if not any(map(scope.fullmatch, op.name.split("/"))):
                continue
            if all(tuple(variable.shape) != t.shape for t in op.outputs):
                continue
            frames = context.graph.oracle.frames_to_stand_in(op)
            found = [f for f in frames if is_users(f[0])]
            if found:
                return _head(*found[0])
    return None


def _head(file, line, function):
    """The line where the function that holds a line begins."""
    around = [
        node
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.FunctionDef)
        and node.name == function
        and node.lineno <= line <= node.end_lineno
    ]
    if around:
        marks = around[-1].decorator_list
        named = [m for m in marks if "function" in ast.unparse(m)]
        line = (named or [around[-1]])[0].lineno
    return place_at(file, line, function)


def unused_findings(location, numbers):
    """Explains why a step's losses never see some variables.

    Args:
        location: A `Location`.
        numbers: Indices of variables that no loss depends on.

    Returns:
        A list of `Finding`s of kind `unused`, one per cause and place.
    """
    groups = collections.defaultdict(list)
    flat, numbers = by_derivative(location, numbers)
    parts, numbers = _parts_of_models(location, numbers)
    for number in numbers:
        groups[_cause(location, number)].append(number)
    return [*flat, *parts] + [
        Finding(
            kind="unused",
            place=place,
            layer=layer,
            loss=loss,
            variables=tuple(location.paths[number] for number in members),
            cause=cause,
        )
        for (cause, layer, loss, place), members in groups.items()
    ]


def _parts_of_models(location, numbers):
    """Explains the layers of a model of which only some others are called.

    Returns:
        `(findings, numbers)`: a `Finding` for each such model, and the
        variables that belong to none.
    """
    trace, model = location.trace, location.model
    called, findings = set(map(id, trace.called)), []
    for inner in layers_of(model) if numbers and model is not None else ():
        is_inner = isinstance(inner, keras.Model) and inner is not model
        if not is_inner or id(inner) in called:
            continue
        own = [x for x in layers_of(inner) if x is not inner]
        used = [layer for layer in own if id(layer) in called]
        lost = {id(v) for v in inner.trainable_variables}
        hit = [n for n in numbers if id(location.variables[n]) in lost]
        if not used or len(hit) < 2:
            continue
        names = ", ".join(f"`{layer.name}`" for layer in used[:_MOST_NAMED])
        findings.append(
            Finding(
                kind="unused",
                cause="unused_layer",
                place=_place_of_call(trace, used),
                layer=inner.name,
                variables=tuple(location.paths[n] for n in hit),
                notes=(f"the step calls only {names} of `{inner.name}`",),
            )
        )
        numbers = [n for n in numbers if n not in hit]
    return findings, numbers


def _place_of_call(trace, layers):
    """The user's line at which one of some layers is called."""
    for layer, tensors in trace.returned():
        if any(layer is one for one in layers):
            for tensor in tensors:
                place = op_place(tensor.op)
                if place.line is not None:
                    return place
    return Place()


def ignoring_loss(trace, name):
    """Returns the `Finding` of a loss that never reads its prediction.

    Args:
        trace: A `Trace`.
        name: Name of the loss, called in the trace.
    """
    calls = [call for call in trace.losses if call.name == name]
    return Finding(
        kind="unused",
        cause="loss_ignores_prediction",
        loss=name,
        place=_loss_place(trace, calls[0]) if calls else Place(),
    )


def _cause(location, number):
    trace, variable = location.trace, location.variables[number]
    layer = location.paths[number].rpartition("/")[0] or None
    declarations = location.places.declarations
    owner = declarations.owner(variable)
    was_called = any(owner is called for called in trace.called)
    later = trace.graph.descendants(location.tensors[number])
    for call in trace.losses:
        if call.y_pred in later:
            place = _loss_place(trace, call)
            return "loss_ignores_prediction", None, call.name, place
    ops = sorted({t.op for t in later}, key=lambda op: -op.number)
    last = next((op for op in ops if op_place(op).line), None)
    used = op_place(last) if last is not None else Place()
    declared = declarations.place(layer, variable=variable)
    if any(tensor in later for tensor in trace.outputs):
        place = used if used.line is not None else declared or Place()
        return "output_without_loss", layer, None, place
    if is_only_derived(trace, location.variables, later):
        return ONLY, layer, None, used
    if used.line is not None:
        return "discarded_output", None, None, used
    if not was_called:
        early = owner and early_place(trace.graph, owner, variable)
        if early is not None:
            return "early_trace", None, None, early
        return "unused_layer", layer, None, declared or Place()
    if later:
        return "discarded_output", layer, None, declared or Place()
    place = declarations.computed_once(variable)
    if place is not None:
        return "computed_once", None, None, place
    place = declarations.assigned(variable)
    return "unused_weight", layer, None, place or Place()


def _loss_place(trace, call):
    """The user's line nearest to the value of a loss."""
    begin = [] if call.value is None else [call.value]
    root = Context(trace.graph)
    for value in walk([Value(root, one) for one in begin], _made_of):
        place = op_place(value.tensor.op)
        if place.line is not None:
            return place
    code = getattr(call.function, "__code__", None)
    if code is None or not is_users(code.co_filename):
        return Place()
    return place_at(code.co_filename, code.co_firstlineno, code.co_name)


def _made_of(value):
    inputs = value.tensor.op.inputs
    found = [edge.source for edge in edges(value)]
    return found + [Value(value.context, source) for source in inputs]
