"""Where the user's code declares a layer that Keras calls for them.

Keras keeps no creation traceback, so the line is looked for in the sources:
the assignment to the attribute that holds the layer, or the one call that
names it. Without exactly one match there is no answer.
"""

import ast
import inspect
import linecache
import sys

from keras_gradguard.diagnosis import keras_internals, source
from keras_gradguard.diagnosis.construction import may_make


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
        kind = type(layer).__name__
        for is_it in (
            lambda call: _keyword(call) == layer.name,
            lambda call: _called(call) == kind,
        ):
            found = _only(
                _files(op),
                lambda call, is_it=is_it: is_it(call) and may_make(call, layer),
            )
            if found is not None:
                return found
        return None
    if op is None:
        return None
    names = keras_internals.functional_call(source.frames_of(op))
    return _only(_files(op), lambda call: _called(call) in names)


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
        for node in ast.walk(_tree(file)):
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


def _files(op):
    """The user's files: first those on the stack, then all modules'."""
    if op is not None:
        stack = [frame[0] for frame in source.frames_of(op)]
    else:
        stack = [frame.filename for frame in inspect.stack(context=0)]
    modules = [
        getattr(module, "__file__", None) for module in sys.modules.values()
    ]
    own = [f for f in modules if f and source.installed_package(f) is None]
    for files in (stack, own):
        yield list(dict.fromkeys(f for f in files if source.is_users(f)))


def _only(groups, matches):
    """The one call that matches, in the first files that have any."""
    for files in groups:
        found = [
            (file, node.lineno)
            for file in files
            for node in ast.walk(_tree(file))
            if isinstance(node, ast.Call) and matches(node)
        ]
        if found:
            return _place(*found[0]) if len(found) == 1 else None
    return None


def _tree(file):
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def _place(file, line):
    inside = "<module>"
    for node in ast.walk(_tree(file)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if node.lineno <= line <= node.end_lineno:
                inside = node.name
    return source.place(file, line, inside)


def _called(call):
    function = call.func
    return getattr(function, "attr", getattr(function, "id", None))


def _keyword(call):
    for keyword in call.keywords:
        if keyword.arg == "name" and isinstance(keyword.value, ast.Constant):
            return keyword.value.value
    return None
