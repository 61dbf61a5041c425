"""Whether a call in the source may be the one that made a layer."""

import ast
import inspect
import re

import keras


def may_make(call, layer):
    """Returns whether nothing that a call says contradicts a layer.

    Args:
        call: An `ast.Call`.
        layer: A Keras layer; its configuration is compared with what the
            call gives in plain values, and with the defaults of the rest.
    """
    try:
        config = layer.get_config()
        parameters = inspect.signature(type(layer).__init__).parameters
    except (NotImplementedError, TypeError, ValueError):
        return True
    names = [name for name in parameters if name != "self"]
    if any(isinstance(argument, ast.Starred) for argument in call.args):
        return True
    given = dict(zip(names, call.args, strict=False))
    given |= {keyword.arg: keyword.value for keyword in call.keywords}
    # An older name of an argument takes the place of another's default.
    is_known = {*config, *parameters}.issuperset(given)
    for name, value in config.items():
        if name in given:
            node = given[name]
            if isinstance(node, ast.Constant) and _differ(
                name, node.value, value
            ):
                return False
        elif is_known and name in parameters:
            default = parameters[name].default
            if name != "name" and _differ(name, default, value):
                return False
    return True


def may_name(call, layer):
    """Returns whether a call may have given a layer its name.

    Args:
        call: An `ast.Call` of the class of the layer.
        layer: A Keras layer.
    """
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if "name" not in given:
        own = keras.utils.get_registered_name(type(layer)).split(">")[-1]
        pattern = rf"{_bare(own)}\d*"
        is_automatic = re.fullmatch(pattern, _bare(layer.name)) is not None
        return None in given or is_automatic
    written = given["name"]
    if isinstance(written, ast.Constant) and written.value is not None:
        return written.value == layer.name
    return True


def _differ(name, written, configured):
    """Whether a plain value is surely not what the configuration holds."""
    if isinstance(configured, dict):
        known = configured.get("class_name")
        if known is None or "dtype" in name:
            return False
        if written is not None and not isinstance(written, str):
            return False
        made = _class_of(written, configured.get("module"))
        return made not in (None, _bare(known))
    if written is None:
        # What `None` stands for is the layer's affair, but for an activation.
        linear = keras.activations.linear
        return _activation(configured) not in (None, linear)
    plain = (bool, int, float, str)
    if not isinstance(written, plain) or not isinstance(configured, plain):
        return False
    if isinstance(written, str) or isinstance(configured, str):
        own, other = _activation(written), _activation(configured)
        if own is not None and other is not None:
            return own is not other
        return _bare(written) != _bare(configured)
    return written != configured


def _class_of(name, module):
    """The class that `"uniform"` and the like, or `None`, stands for, bare."""
    kind = getattr(keras, str(module).rpartition("keras.")[2], None)
    try:
        return _bare(type(kind.get(name)).__name__)
    except (AttributeError, ValueError):
        return None if name is None else _bare(name)


def _activation(name):
    """The activation that a name stands for, `None` if it is none."""
    try:
        return keras.activations.get(name) if isinstance(name, str) else None
    except ValueError:
        return None


def _bare(text):
    return str(text).replace("_", "").lower()
