"""Where the user's code declares a layer that Keras calls for them.

Keras keeps no creation traceback, so the line is looked for in the sources:
the assignment to the attribute that holds the layer, or the one place that
may have made it. Where two fit there is no answer.
"""

import ast
import inspect

from keras_gradguard.diagnosis import keras_internals, source
from keras_gradguard.diagnosis.construction import may_make, may_name
from keras_gradguard.diagnosis.operators import may_call
from keras_gradguard.diagnosis.reached import (
    Reached,
    called,
    loaded_files,
    tree_of,
)


def declared_place(model, layer_path, op=None, variable=None):
    """Finds the line that declares a layer, or the op of a Keras function.

    Args:
        model: The model that holds the layer.
        layer_path: Keras path of the layer, or `None`.
        op: An op that runs in it, or `None`.
        variable: A variable that the layer owns, or `None`.

    Returns:
        A `Place`, or `None`.
    """
    if variable is not None:
        layer = owner_of(model, variable)
    else:
        layer = _layer_at(model, layer_path)
    found = assigned_place(model, layer) if layer is not None else None
    if found is not None:
        return found
    if layer is not None and layer is not model:
        return _only(op, (type(layer).__name__,), layer)
    names = ()
    if op is not None:
        names = keras_internals.functional_call(source.frames_of(op))
    return _only(op, names) if names else None


def owner_of(model, variable):
    """Returns the innermost layer that a variable belongs to, or `None`."""
    found = None
    for layer in keras_internals.layers_of(model):
        if any(variable is own for own in layer.trainable_variables):
            found = layer
    return found


def _layer_at(model, path):
    found = None
    for layer in keras_internals.layers_of(model):
        if path is not None and path in (layer.path, layer.name):
            found = layer
    return found


def assigned_place(model, value):
    """Finds the `self.name = ...` in a class of the user that made `value`.

    Args:
        model: The model whose layers may hold `value` as an attribute.
        value: A layer or a variable.

    Returns:
        A `Place`, or `None`.
    """
    for owner in keras_internals.layers_of(model):
        names = [k for k, v in vars(owner).items() if v is value]
        file = _class_file(type(owner)) if names else None
        if file is None or not source.is_users(file):
            continue
        for node in ast.walk(tree_of(file)):
            if not isinstance(node, ast.ClassDef):
                continue
            if node.name == type(owner).__name__:
                lines = _assignments(node, names)
                if len(lines) == 1:
                    return _place(file, lines[0])
    return None


def _assignments(node, names):
    return [
        assignment.lineno
        for assignment in ast.walk(node)
        if isinstance(assignment, ast.Assign)
        for target in assignment.targets
        if isinstance(target, ast.Attribute) and target.attr in names
    ]


def _class_file(owner_class):
    for member in vars(owner_class).values():
        code = getattr(inspect.unwrap(member), "__code__", None)
        if code is not None:
            return code.co_filename
    return None


def _only(op, names, layer=None):
    """The one place that may have called something, by its names."""
    if op is not None:
        stack = [(file, name) for file, _, name in source.frames_of(op)]
    else:
        frames = inspect.stack(context=0)
        stack = [(frame.filename, frame.function) for frame in frames]
    files = loaded_files(file for file, _ in stack)
    reached = Reached(files, set(stack))
    named = {file: reached.aliases(file, names) for file in files}
    nodes = list(reached.nodes())
    found = {
        (file, node.lineno)
        for file, node in nodes
        if _may_call(node, named[file], names, layer)
        and not (isinstance(node, ast.Call) and reached.is_foreign(file, node))
    }
    if len(found) != 1 or (layer is None and _is_handed_on(nodes, named)):
        return None
    return _place(*found.pop())


def _may_call(node, own, names, layer):
    if isinstance(node, ast.Call) and called(node) in own:
        return layer is None or (
            may_make(node, layer) and may_name(node, layer)
        )
    return layer is None and may_call(node, names)


def _is_handed_on(nodes, named):
    """Whether a function is given a name of which nobody knows who calls it."""
    calls = {id(n.func) for _, n in nodes if isinstance(n, ast.Call)}
    return any(
        id(node) not in calls
        and isinstance(node, (ast.Name, ast.Attribute))
        and getattr(node, "attr", getattr(node, "id", None)) in named[file]
        for file, node in nodes
    )


def _place(file, line):
    inside = "<module>"
    for node in ast.walk(tree_of(file)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if node.lineno <= line <= node.end_lineno:
                inside = node.name
    return source.place(file, line, inside)
