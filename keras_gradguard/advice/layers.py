"""Changes of the code that makes layers and weights.

Such code has run when a step fails. `advice.trial.LayerTrial` gives the layers
of the model what the changed code would have given them; so each rewrite here
says what that is.
"""

import ast
import inspect

import keras
import numpy as np

from keras_gradguard.advice.construction import ModelCode, is_of_keras
from keras_gradguard.advice.rewrites import LEAK
from keras_gradguard.advice.site import Rewrite
from keras_gradguard.advice.tracking import call_directly, track
from keras_gradguard.model.losses import compiled_loss_objects
from keras_gradguard.source.reachable import called

_DRAWN = "training starts with different weights"
_SATURATING = ("sigmoid", "tanh", "hard_sigmoid", "softsign")
_FLAT = ("relu", "relu6", "leaky_relu", "linear", "hard_tanh", "hard_sigmoid")
# Weights as they were drawn are within that factor of another draw.
_NEAR = 2.0
# And an initializer that is to blame differs from the default by more.
_FAR = 3.0


def layer_rewrites(finding, code, step):
    """Yields the changes of the code that made what a finding is about.

    Args:
        finding: A `Finding`.
        code: Code of the rule that explains it.
        step: The `Step` that shows it.

    Yields:
        `(site, rewrite)`: the `Site` of the code, and a `Rewrite`.
    """
    model = ModelCode(finding, step)
    for propose in _PROPOSALS.get(code, ()):
        yield from propose(model)


def _activation(made):
    """Name of the activation of all layers of a call, `None` if they differ."""
    found = {vars(layer).get("activation") for layer in made.layers}
    function = found.pop() if len(found) == 1 else None
    name = getattr(function, "__name__", "")
    module = getattr(function, "__module__", None) or ""
    # One of the user's may have the same name.
    is_known = module.split(".")[0] in ("keras", "tensorflow")
    return name if is_known and hasattr(keras.activations, name) else None


def _with_activation(made, name):
    """What the call gives with another activation, fields of a `Rewrite`."""
    function = keras.activations.get(name)
    return {
        "edits": (made.given("activation", f'"{name}"'),),
        "attributes": made.attributes("activation", function),
    }


def _own_weight(layer, argument):
    """The weight that an argument such as `kernel_initializer` is for."""
    stem = argument.removesuffix("_initializer")
    names = (stem, f"{stem}_kernel")
    found = [v for v in layer.weights if v.name in names]
    return found[0] if len(found) == 1 else None


def _draw(initializer, variable):
    """Values as an initializer draws them, an array; `None` if it cannot."""
    kind = type(initializer)
    if not (kind.__module__ or "").startswith("keras."):
        return None
    # A copy: a seed generator of its own would go on.
    initializer = kind.from_config(initializer.get_config())
    values = initializer(tuple(variable.shape), dtype=variable.dtype)
    return keras.ops.convert_to_numpy(values)


def _is_as_drawn(variable, initializer):
    """Whether a weight has not moved far from its initial values."""
    first, now = _draw(initializer, variable), _values(variable)
    if first is None:
        return False
    if np.ptp(first) == 0:
        return np.allclose(now, first, rtol=0.1, atol=1e-6)
    sizes = [_size(each) for each in (first, now)]
    return min(sizes) > 0 and max(sizes) < _NEAR * min(sizes)


def _size(values):
    return float(np.sqrt(np.mean(np.square(values))))


def _values(variable):
    return keras.ops.convert_to_numpy(variable).astype("float32")


def _redrawn(layers, argument, name):
    """`(variable, value)` of the weights of layers, initialised otherwise."""
    found = []
    for layer in layers:
        variable = _own_weight(layer, argument)
        initializer = getattr(layer, argument, None)
        if variable is None or not _is_as_drawn(variable, initializer):
            return ()
        drawn = _draw(keras.initializers.get(name), variable)
        found.append((variable, drawn))
    return tuple(found)


def _is_of_other_size(variable, drawn):
    """Whether other values are more than another draw of the same size."""
    sizes = [_size(values) for values in (_values(variable), drawn)]
    return np.ptp(_values(variable)) == 0 or (
        max(sizes) > _FAR * max(min(sizes), 1e-30)
    )


def by_default(made, *arguments):
    """The default initializer in place of one that a call gives.

    Args:
        made: A `Construction`, or `None`.
        arguments: Names of arguments such as `"bias_initializer"`.
    """
    for argument in arguments if made is not None else ():
        default = made.default(argument)
        if made.argument(argument) is None or not isinstance(default, str):
            continue
        weights = _redrawn(made.layers, argument, default)
        if weights and all(_is_of_other_size(*pair) for pair in weights):
            yield (
                made.site,
                Rewrite(
                    _initialise(default, argument),
                    (made.given(argument, f'"{default}"'),),
                    _DRAWN,
                    weights=weights,
                ),
            )


def _initialise(name, argument):
    what = argument.removesuffix("_initializer")
    return f"initialise the {what} with `{name}`"


def initialise(model):
    """The default initializers of the layer that the finding names.

    A layer that came to this while it trained would come to it once more.
    """
    if model.can_draw and model.finding.from_start is not False:
        names = ("bias_initializer", "kernel_initializer")
        yield from by_default(model.made(model.layer), *names)


def leak(model):
    """A slope for negative inputs in place of none."""
    made = model.made(model.layer)
    if made is None or model.finding.from_start is False:
        return
    text = "give the activation a gradient for negative inputs"
    if _activation(made) == "relu":
        changed = _with_activation(made, "leaky_relu")
        yield made.site, Rewrite(text, effect=LEAK, **changed)
    elif isinstance(made.layers[0], keras.layers.ReLU):
        slopes = {vars(layer).get("negative_slope") for layer in made.layers}
        if slopes == {0.0}:
            yield (
                made.site,
                Rewrite(
                    text,
                    (made.given("negative_slope", "0.2"),),
                    LEAK,
                    made.attributes("negative_slope", 0.2),
                ),
            )


def sigmoid_of_one_unit(model):
    """A sigmoid for one unit, another axis for one value of each step."""
    made = model.made(model.layer)
    if made is None:
        return
    shapes = [tensor.shape for tensor in model.returned(made.layers)]
    ranks = {None if shape is None else len(shape) for shape in shapes}
    if ranks == {2} and _activation(made) == "softmax":
        yield (
            made.site,
            Rewrite(
                "use a sigmoid for one unit",
                effect="the value is a probability instead of always 1",
                **_with_activation(made, "sigmoid"),
            ),
        )
    if ranks == {3} and isinstance(made.layers[0], keras.layers.Softmax):
        yield (
            made.site,
            Rewrite(
                "take the softmax over axis 1",
                (made.given("axis", "1"),),
                "the probabilities sum to 1 over that axis",
                made.attributes("axis", 1),
            ),
        )


def smooth(model):
    """A smooth activation where a second derivative is asked for."""
    made = model.made(model.layer)
    if made is not None and _activation(made) in _FLAT:
        yield (
            made.site,
            Rewrite(
                "use a smooth activation",
                effect="the activation changes",
                **_with_activation(made, "tanh"),
            ),
        )


def keep_size(model):
    """ReLU with He initialisation in place of a saturating activation."""
    made = model.made(model.layer)
    name = None if made is None else _activation(made)
    if not model.can_draw or name not in _SATURATING:
        return
    # A gate or a probability is one because it lies between 0 and 1.
    if _is_last(model, made.layers) or model.is_gate(made.layers):
        return
    argument = "kernel_initializer"
    weights = _redrawn(made.layers, argument, "he_normal")
    if not weights:
        return
    changed = _with_activation(made, "relu")
    changed["edits"] += (made.given(argument, '"he_normal"'),)
    yield (
        made.site,
        Rewrite(
            "use ReLU with He initialisation",
            effect=f"the activation changes, and {_DRAWN}",
            weights=weights,
            **changed,
        ),
    )


def _is_last(model, layers):
    """Whether one of some layers may give what the model returns."""
    last = model.step.variables[-1]
    owners = [model.declarations.owner(last)]
    for output in keras.tree.flatten(getattr(model.step.model, "outputs", ())):
        history = getattr(output, "_keras_history", None)
        owners.append(getattr(history, "operation", None))
    return any(layer is owner for layer in layers for owner in owners)


def break_zeros(model):
    """Random values for one of two factors that are both zero."""
    seen = set()
    for variable in model.variables() if model.can_draw else ():
        owner = model.declarations.owner(variable)
        if owner is None or np.any(_values(variable)):
            continue
        if is_of_keras(owner):
            arguments = [
                name
                for name in inspect.signature(type(owner).__init__).parameters
                if name.endswith("_initializer")
                and _own_weight(owner, name) is variable
            ]
            yield from by_default(model.made(owner), *arguments)
        else:
            found = _zero_weight(model, owner, variable)
            if found is not None and found[1].edits not in seen:
                seen.add(found[1].edits)
                yield found


def _zero_weight(model, owner, variable):
    """The change of the `add_weight` that made a weight of zeros."""
    statement = model.declarations.assignment(variable)
    names = [k for k, v in vars(owner).items() if v is variable]
    if statement is None or len(names) != 1:
        return None
    file, assignment = statement
    call = assignment.value
    if called(call) != "add_weight":
        return None
    site = model.site(file, assignment.lineno)
    given = {k.arg: k.value for k in call.keywords}
    node = given.get("initializer")
    if node is None and len(call.args) > 1:
        node = call.args[1]
    if node is None or not _gives_zeros(node):
        return None
    name = "glorot_uniform"
    weights = []
    for layer in model.declarations.instances_of(type(owner)):
        own = vars(layer).get(names[0])
        if own is None or np.any(_values(own)):
            return None
        weights.append((own, _draw(keras.initializers.get(name), own)))
    return site, Rewrite(
        f"initialise `{names[0]}` with `{name}`",
        (site.replace(node, f'"{name}"'),),
        _DRAWN,
        weights=tuple(weights),
    )


def _gives_zeros(node):
    if isinstance(node, ast.Constant):
        return str(node.value).lower() == "zeros"
    name = called(node) or getattr(node, "attr", None)
    return str(name).lower() in ("zeros", "zeros_initializer")


def divide_pixels(model):
    """A quotient in place of one that was rounded down to zero."""
    for layer in model.declarations.instances_of(keras.layers.Rescaling):
        made = model.made(layer)
        node = None if made is None else made.argument("scale")
        if not _is_rounded_to_zero(node):
            continue
        left, right = map(made.site.operand, (node.left, node.right))
        scale = node.left.value / node.right.value
        yield (
            made.site,
            Rewrite(
                "divide without rounding",
                (made.site.replace(node, f"{left} / {right}"),),
                "the scale is no longer 0",
                made.attributes("scale", scale),
            ),
        )


def _is_rounded_to_zero(node):
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.FloorDiv):
        return False
    left, right = (getattr(n, "value", None) for n in (node.left, node.right))
    plain = (int, float)
    if not isinstance(left, plain) or not isinstance(right, plain):
        return False
    return 0 < left < right


def take_logits(model):
    """`from_logits=True` for a cross-entropy that gets scores.

    Args:
        model: The `ModelCode`.
    """
    yield from _from_logits(
        model,
        True,
        "tell the loss that it gets scores",
        "the loss is the cross-entropy of the scores",
    )


def take_probabilities(model):
    """`from_logits=False` for a cross-entropy that gets probabilities.

    Args:
        model: The `ModelCode`.
    """
    yield from _from_logits(
        model,
        False,
        "tell the loss that it gets probabilities",
        "the loss is the cross-entropy of the probabilities",
    )


def _from_logits(model, value, text, effect):
    place = model.finding.place
    if place.line is None:
        return
    found = [
        loss
        for loss in compiled_loss_objects(model.step.model)
        if type(loss).__module__.startswith("keras.")
        and "from_logits" in vars(loss)
        and model.declarations.loss(loss) == place
    ]
    site = model.site(place.file, place.line)
    calls = [
        node
        for node in site.nodes
        if isinstance(node, ast.Call)
        and called(node) in {type(loss).__name__ for loss in found}
    ]
    if len(found) != 1 or len(calls) != 1:
        return
    (loss,), (call,) = found, calls
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        # The text does not show which argument is which.
        return
    given = [k.value for k in call.keywords if k.arg == "from_logits"]
    edit = site.insert(call, f"from_logits={value}")
    if given:
        edit = site.replace(given[0], str(value))
    known = {**vars(loss)["_fn_kwargs"], "from_logits": value}
    attributes = (
        (loss, "from_logits", value),
        (loss, "_fn_kwargs", known),
    )
    yield site, Rewrite(text, (edit,), effect, attributes)


_PROPOSALS = {
    "GG201": (initialise, leak),
    "GG204": (initialise,),
    "GG205": (sigmoid_of_one_unit,),
    "GG208": (break_zeros,),
    "GG211": (divide_pixels,),
    "GG212": (smooth,),
    "GG213": (take_logits,),
    "GG214": (take_probabilities,),
    "GG215": (sigmoid_of_one_unit,),
    "GG231": (initialise, keep_size),
    "GG308": (track,),
    "GG309": (call_directly,),
}
