"""Where the user's code declares a layer that Keras calls for them.

Keras keeps no creation traceback, so the line is looked for in the sources:
the assignment to the attribute that holds the layer, or the one call that
names it. Without exactly one match there is no answer.
"""

import ast
import inspect
import linecache
import textwrap


from keras_gradguard.diagnosis import internals, source


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
    layer = _find_layer(model, layer_path, variable)
    found = _assigned(model, layer) if layer is not None else None
    if found is not None:
        return found
    files = _files(op)
    if layer is not None and layer is not model:
        found = _only(files, lambda call: _keyword(call) == layer.name)
        if found is not None:
            return found
        kind = type(layer).__name__
        return _only(files, lambda call: _called(call) == kind)
    if op is None:
        return None
    names = internals.functional_call(source.frames_of(op))
    return _only(files, lambda call: _called(call) in names)


def _find_layer(model, path, variable):
    found = None
    for layer in internals.layers_of(model):
        if variable is not None:
            if any(variable is own for own in layer.trainable_variables):
                found = layer
        elif path is not None and path in (layer.path, layer.name):
            found = layer
    return found


def _assigned(model, layer):
    """Looks for `self.name = ...` in the class that holds the layer."""
    for owner in internals.layers_of(model):
        owner_class = type(owner)
        names = [k for k, v in vars(owner).items() if v is layer]
        if not names or owner_class.__module__.startswith("keras."):
            continue
        try:
            lines, start = inspect.getsourcelines(owner_class)
            tree = ast.parse(textwrap.dedent("".join(lines)))
        except (OSError, TypeError, SyntaxError):
            continue
        for node in ast.walk(tree):
            targets = node.targets if isinstance(node, ast.Assign) else ()
            for target in targets:
                if isinstance(target, ast.Attribute) and target.attr in names:
                    file = inspect.getsourcefile(owner_class)
                    line = start + node.lineno - 1
                    return source.place(file, line, "__init__")
    return None


def _files(op):
    """The user's files on the stack of an op, the innermost last."""
    if op is not None:
        frames = [frame[0] for frame in source.frames_of(op)]
    else:
        frames = [frame.filename for frame in inspect.stack(context=0)]
    return list(dict.fromkeys(f for f in frames if source.is_users(f)))


def _only(files, matches):
    found = []
    for file in files:
        try:
            tree = ast.parse("".join(linecache.getlines(file)))
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and matches(node):
                found.append((file, node.lineno))
    if len(found) != 1:
        return None
    return source.place(*found[0], None)


def _called(call):
    function = call.func
    return getattr(function, "attr", getattr(function, "id", None))


def _keyword(call):
    for keyword in call.keywords:
        if keyword.arg == "name" and isinstance(keyword.value, ast.Constant):
            return keyword.value.value
    return None
