"""Changes that let a model track a weight or a layer that it uses."""

import ast

import keras

from keras_gradguard.advice.site import Rewrite
from keras_gradguard.source.reachable import called


def track(model):
    """A weight of the layer in place of a `tf.Variable`."""
    finding, layer = model.finding, model.layer
    if layer is None or len(finding.variables) != 1:
        return
    if model.step.evidence.is_tracing:
        return
    prefix, _, name = finding.variables[0].rpartition("/")
    known = vars(layer).get(name)
    if prefix not in (layer.path, layer.name) or not hasattr(known, "assign"):
        return
    statement = model.declarations.assignment(known)
    if statement is None:
        return
    file, assignment = statement
    site = model.site(file, assignment.lineno)
    call = site.same(assignment.value)
    text = None if call is None else _weight(site, call, name)
    if text is None:
        return
    attributes, tracked = [], []
    for one in model.declarations.instances_of(type(layer)):
        held = vars(one).get(name)
        if not hasattr(held, "assign") or "float32" not in str(held.dtype):
            return
        variable = keras.Variable(
            keras.ops.convert_to_numpy(held).astype("float32"), name=name
        )
        attributes.append((one, name, variable))
        own = f"{one.path or one.name}/{name}"
        path = finding.variables[0] if one is layer else own
        tracked.append((one, variable, path))
    yield (
        site,
        Rewrite(
            "make it a weight of the layer",
            (site.replace(call, text),),
            "Keras trains and saves it",
            attributes=tuple(attributes),
            tracked=tuple(tracked),
        ),
    )


def _weight(site, call, name):
    """The text that makes a weight in place of a `tf.Variable`, or `None`."""
    known = {k.arg: k.value for k in call.keywords}
    if called(call) != "Variable" or not known.keys() <= {"name", "trainable"}:
        return None
    if not _is_after_super(site, call) or len(call.args) != 1:
        return None
    (value,) = call.args
    if isinstance(value, ast.Lambda):
        return None
    kind, shape = called(value), None
    if kind in ("ones", "zeros") and not value.keywords:
        shape = value.args[0] if len(value.args) == 1 else None
    if shape is not None:
        given = known.get("name")
        name = f'"{name}"' if given is None else site.source(given)
        return (
            f"self.add_weight(shape={site.source(shape)}, "
            f'initializer="{kind}", name={name})'
        )
    if "keras" not in site.names_imported:
        return None
    rest = site.text_between(
        call.args[0], (call.args + list(known.values()))[-1]
    )
    return f"keras.Variable({rest})"


def _is_after_super(site, call):
    """Whether a line stands where a layer may make weights."""
    name = getattr(site.function, "name", None)
    begun = [
        node
        for node in site.around
        if isinstance(node, ast.Call)
        and called(node) == "__init__"
        and node.lineno < call.lineno
    ]
    return name == "build" or (name == "__init__" and bool(begun))


def call_directly(model):
    """A call of the layer in place of a `Lambda` that does nothing else."""
    finding = model.finding
    if finding.place.line is None or model.step.evidence.is_tracing:
        return
    site = model.site(finding.place.file, finding.place.line)
    names = {
        getattr(target, "id", None)
        for node in site.nodes
        if isinstance(node, ast.Assign)
        for target in node.targets
    }
    calls = [
        (call, name)
        for call in site.around
        if (name := _called_by_lambda(call)) is not None and name in names
    ]
    holders = [
        (holder, held)
        for holder in model.declarations.instances_of(keras.layers.Lambda)
        for held in _captured_layers(holder)
    ]
    if len(calls) != 1 or len(holders) != 1:
        return
    ((call, name),), ((holder, held),) = calls, holders
    tracked = [
        (holder, variable, path)
        for variable in held.trainable_variables
        for path in finding.variables
        if path.rpartition("/")[2] == variable.name
    ]
    if len(tracked) != len(finding.variables):
        return
    text = f"{name}({site.source(call.args[0])})"
    yield (
        site,
        Rewrite(
            "call the layer directly",
            (site.replace(call, text),),
            "Keras trains and saves the layer",
            tracked=tuple(tracked),
        ),
    )


def _called_by_lambda(node):
    """`f` of `Lambda(lambda x: f(x))(value)`, `None` for another node."""
    is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Call)
    if not is_call or called(node.func) != "Lambda" or not node.func.args:
        return None
    if len(node.args) != 1 or node.keywords:
        return None
    function = node.func.args[0]
    body = getattr(function, "body", None)
    if not isinstance(function, ast.Lambda) or not isinstance(body, ast.Call):
        return None
    parameters = [one.arg for one in function.args.args]
    given = [getattr(one, "id", None) for one in body.args]
    if parameters != given or len(given) != 1 or body.keywords:
        return None
    return getattr(body.func, "id", None)


def _captured_layers(layer):
    """The layers that the function of a `Lambda` refers to."""
    function = layer.function
    cells = getattr(function, "__closure__", None) or ()
    found = [cell.cell_contents for cell in cells]
    code = getattr(function, "__code__", None)
    known = getattr(function, "__globals__", {})
    found += [known.get(name) for name in getattr(code, "co_names", ())]
    return [one for one in found if isinstance(one, keras.layers.Layer)]
