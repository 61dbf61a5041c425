"""Where the user's code declares a layer that Keras calls for them.

Keras keeps no creation traceback, so the line is looked for in the sources:
the assignment to the attribute that holds the layer, or the one place that
may have made it. Where two fit there is no answer.
"""

import ast
import collections
import functools
import inspect
import random
import re
import sys

import keras

from keras_gradguard.model.layers import functional_call, layers_of
from keras_gradguard.model.losses import may_stand_for
from keras_gradguard.source.frames import is_users, place_at
from keras_gradguard.source.reachable import Sources, called


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
    # An initializer that is made draws its seed.
    state = random.getstate()
    try:
        return _bare(type(kind.get(name)).__name__)
    except (AttributeError, ValueError):
        return None if name is None else _bare(name)
    finally:
        random.setstate(state)


def _activation(name):
    """The activation that a name stands for, `None` if it is none."""
    try:
        return keras.activations.get(name) if isinstance(name, str) else None
    except ValueError:
        return None


def _bare(text):
    return str(text).replace("_", "").lower()


# The language's own names; those of what is called are Keras'.
_METHODS = {
    ast.Add: ("add",),
    ast.Sub: ("sub",),
    ast.Mult: ("mul",),
    ast.Div: ("truediv",),
    ast.FloorDiv: ("floordiv",),
    ast.Mod: ("mod",),
    ast.Pow: ("pow",),
    ast.MatMult: ("matmul",),
    ast.BitAnd: ("and",),
    ast.BitOr: ("or",),
    ast.BitXor: ("xor",),
    ast.USub: ("neg",),
    ast.Invert: ("invert",),
    ast.Eq: ("eq",),
    ast.NotEq: ("ne",),
    # Python asks the other side if the one it asks first does not know.
    ast.Gt: ("gt", "lt"),
    ast.Lt: ("lt", "gt"),
    ast.GtE: ("ge", "le"),
    ast.LtE: ("le", "ge"),
}
_BUILTINS = {"abs": ("abs",), "round": ("round",)}


def may_call(node, names):
    """Returns whether an operator may call one of some functions of Keras.

    Args:
        node: An `ast` node.
        names: Names of functions, such as `"greater_equal"`.
    """
    kinds = [getattr(node, "op", None), *getattr(node, "ops", ())]
    methods = [m for kind in kinds for m in _METHODS.get(type(kind), ())]
    if isinstance(node, ast.Call):
        methods += _BUILTINS.get(getattr(node.func, "id", None), ())
    return any(not _called_by(method).isdisjoint(names) for method in methods)


@functools.cache
def _called_by(method):
    """Names of what a `KerasTensor` calls for one operator."""
    function = getattr(keras.KerasTensor, f"__{method}__", None)
    code = getattr(function, "__code__", None)
    classes = () if code is None else code.co_names
    return {re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in classes}


class Declarations:
    """The lines that declare the layers of a model.

    What is read for one is kept for the next ones, so make another object
    for each look: the user's code may have changed in between.

    Args:
        model: The model that holds the layers, or `None`.
    """

    def __init__(self, model):
        self._model = model
        self._sources = Sources()
        self._owners = None
        self._calls = {}

    def place(self, layer_path, op=None, variable=None):
        """Finds the line that declares a layer, or the op of a Keras function.

        Args:
            layer_path: Keras path of the layer, or `None`.
            op: An op that runs in it, or `None`.
            variable: A variable that the layer owns, or `None`.

        Returns:
            A `Place`, or `None`.
        """
        if variable is not None:
            layer = self._made_by_user(self.owner(variable))
        else:
            layer = self._layer_at(layer_path)
        found = self.assigned(layer) if layer is not None else None
        if found is not None:
            return found
        if layer is not None and layer is not self._model:
            return self._only(op, (type(layer).__name__,), layer)
        names = ()
        if op is not None:
            names = functional_call(op.frames)
        return self._only(op, names) if names else None

    def _made_by_user(self, layer):
        """The layer that holds a part, such as a cell, that Keras made."""
        while layer is not None:
            path = getattr(layer, "path", "").rpartition("/")[0]
            holder = self._layer_at(path) if path else None
            if (
                holder in (None, self._model)
                or isinstance(holder, (keras.Model, keras.layers.Wrapper))
                or any(map(_is_of_user, (layer, holder)))
            ):
                break
            layer = holder
        return layer

    def loss(self, loss):
        """Finds the line that gives `compile` a loss of Keras'.

        Args:
            loss: A `keras.losses.Loss`.

        Returns:
            The `Place` of the call that made it, or of its name; `None` where
            more than one may have.
        """
        reached = self._sources.reached(running())
        nodes = {}
        for file, node in reached.nodes:
            inside = [node]
            if isinstance(node, ast.Call) and called(node) == "compile":
                inside = ast.walk(node)
            nodes |= {id(one): (file, one) for one in inside}
        names = (type(loss).__name__,)
        found = {
            (file, node.lineno)
            for file, node in _callers(reached, nodes.values(), names, loss)
            if isinstance(node, ast.Call)
        }
        if not found:
            given = [
                (file, one)
                for file, node in nodes.values()
                if isinstance(node, ast.Call) and called(node) == "compile"
                for one in _losses_given(node)
            ]
            found = {
                (file, one.lineno)
                for file, one in given
                if may_stand_for(getattr(one, "value", None), loss)
            }
        return self._place(*found.pop()) if len(found) == 1 else None

    def owner(self, variable):
        """Returns the innermost layer that owns a trainable variable, if any.

        Args:
            variable: A Keras variable.
        """
        if self._owners is None:
            self._owners = {
                id(own): layer
                for layer in layers_of(self._model)
                for own in layer.trainable_variables
            }
        return self._owners.get(id(variable))

    def assigned(self, value):
        """Finds the `self.name = ...` in a class of the user that made a value.

        Args:
            value: A layer or a variable, which a layer holds as an attribute.

        Returns:
            A `Place`, or `None`.
        """
        found = self.assignment(value)
        return None if found is None else self._place(found[0], found[1].lineno)

    def assignment(self, value):
        """Finds the statement of `assigned`.

        Args:
            value: See `assigned`.

        Returns:
            `(file, ast.Assign)`, or `None`.
        """
        for owner, names in self._holders.get(id(value), {}).values():
            for file, node in self._classes(owner):
                made = _assignments(node, names)
                if len(made) == 1:
                    return file, made[0]
        return None

    def computed_once(self, variable):
        """Finds the `self.name = ...` that makes a tensor of a weight.

        Args:
            variable: A weight that the step does not read.

        Returns:
            A `Place`; `None` if its layer holds no such tensor, or if
            several lines make one.
        """
        found = set()
        for owner, names in self._holders.get(id(variable), {}).values():
            held = [
                name
                for name, value in vars(owner).items()
                if keras.ops.is_tensor(value)
            ]
            for file, node in self._classes(owner):
                for made in _assignments(node, held):
                    parts = ast.walk(made.value)
                    if {getattr(p, "attr", None) for p in parts} & set(names):
                        found.add((file, made.lineno))
        return self._place(*found.pop()) if len(found) == 1 else None

    def _classes(self, owner):
        """`(file, ast.ClassDef)` of the class of a layer of the user's."""
        file = class_file(type(owner))
        if file is None or not is_users(file):
            return
        for node in ast.walk(self._sources.tree(file)):
            is_class = isinstance(node, ast.ClassDef)
            if is_class and node.name == type(owner).__name__:
                yield file, node

    @functools.cached_property
    def _holders(self):
        """The layers that hold a value, and the names, by its `id`."""
        found = collections.defaultdict(dict)
        for owner in layers_of(self._model):
            for name, value in vars(owner).items():
                known = found[id(value)].setdefault(id(owner), (owner, []))
                known[1].append(name)
        return found

    def layers_at(self, path):
        """Returns the layers of the model that a path or a name fits, a list.

        Args:
            path: Keras path or name of a layer, or `None`.
        """
        return [
            layer
            for layer in layers_of(self._model)
            if path is not None and path in (layer.path, layer.name)
        ]

    def construction(self, layer):
        """Finds the call that made a layer.

        Args:
            layer: A layer of the model.

        Returns:
            `(file, ast.Call)`; `None` where no call of the user's may have
            made it, or more than one.
        """
        names, found = (type(layer).__name__,), self.assignment(layer)
        reached = self._sources.reached(running())
        if found is None:
            calls = self._callers_in(reached, names, layer)
        elif found[0] not in reached.files:
            return None
        else:
            nodes = [(found[0], node) for node in ast.walk(found[1])]
            calls = _callers(reached, nodes, names, layer)
        made = [
            (file, node) for file, node in calls if isinstance(node, ast.Call)
        ]
        return made[0] if len(made) == 1 else None

    def made_by(self, call, layer):
        """Returns the layers of the model that one call has made.

        Args:
            call: An `ast.Call`, the `construction` of a layer.
            layer: That layer.

        Returns:
            A list of layers, `layer` among them; `None` where it is not
            known of each layer of its class whether the call has made it.
        """
        found = []
        for other in layers_of(self._model):
            if type(other) is not type(layer) or not (
                may_make(call, other) and may_name(call, other)
            ):
                continue
            known = self.construction(other)
            if known is None:
                return None
            if known[1] is call:
                found.append(other)
        return found

    def instances_of(self, kind):
        """Returns the layers of the model that are of a class, a list.

        Args:
            kind: The class.
        """
        return [o for o in layers_of(self._model) if isinstance(o, kind)]

    def _layer_at(self, path):
        found = self.layers_at(path)
        return found[-1] if found else None

    def _only(self, op, names, layer=None):
        """The one place that may have called something, by its names."""
        if op is not None:
            stack = [(file, name) for file, _, name in op.frames]
        else:
            stack = running()
        reached = self._sources.reached(stack)
        found = {
            (file, node.lineno)
            for file, node in self._callers_in(reached, names, layer)
        }
        if len(found) != 1:
            return None
        named = _named(reached, names)
        if layer is None and _is_handed_on(reached.nodes, named):
            return None
        return self._place(*found.pop())

    def _callers_in(self, reached, names, layer):
        """`_callers` in all code that is reached, looked for once by name."""
        key = reached, names, layer is None
        if key not in self._calls:
            self._calls[key] = _named_callers(
                reached, reached.nodes, names, layer is None
            )
        return [c for c in self._calls[key] if _may_be_of(c[1], layer)]

    def _place(self, file, line):
        return place_in(self._sources, file, line)


def _losses_given(call):
    """The nodes of the losses in a call of `compile`."""
    given = [k.value for k in call.keywords if k.arg == "loss"]
    given = given or call.args[1:2]
    return [one for node in given for one in ast.walk(node)]


def place_in(sources, file, line):
    """Returns the `Place` of a line of a file, with its function.

    Args:
        sources: The `Sources` that hold the file.
        file: File name as a code object has it.
        line: The line.
    """
    inside = "<module>"
    for node in ast.walk(sources.tree(file)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if node.lineno <= line <= node.end_lineno:
                inside = node.name
    return place_at(file, line, inside)


def running():
    """Returns the `(file, function)` of the code that runs, a list."""
    found, frame = [], sys._getframe(1)
    while frame is not None:
        found.append((frame.f_code.co_filename, frame.f_code.co_name))
        frame = frame.f_back
    return found


def _assignments(node, names):
    return [
        assignment
        for assignment in ast.walk(node)
        if isinstance(assignment, ast.Assign)
        for target in assignment.targets
        if isinstance(target, ast.Attribute) and target.attr in names
    ]


def class_file(owner_class):
    """Returns the file that defines a class, `None` if it has no code.

    Args:
        owner_class: A class.
    """
    for member in vars(owner_class).values():
        code = getattr(inspect.unwrap(member), "__code__", None)
        if code is not None:
            return code.co_filename
    return None


def _is_of_user(layer):
    file = class_file(type(layer))
    return file is not None and is_users(file)


def _named(reached, names):
    """File -> the names under which it may call something."""
    return {file: reached.aliases(file, names) for file in reached.files}


def _callers(reached, nodes, names, layer):
    """`(file, node)` of what may have called something, by its names."""
    found = _named_callers(reached, nodes, names, layer is None)
    return [known for known in found if _may_be_of(known[1], layer)]


def _named_callers(reached, nodes, names, with_operators):
    named = _named(reached, names)
    return [
        (file, node)
        for file, node in nodes
        if _may_call(node, named.get(file, names), names, with_operators)
        and not (isinstance(node, ast.Call) and reached.is_foreign(file, node))
    ]


def _may_call(node, own, names, with_operators):
    if isinstance(node, ast.Call) and called(node) in own:
        return True
    return with_operators and may_call(node, names)


def _may_be_of(node, layer):
    """Whether what calls a class may have made a layer, if there is one."""
    return layer is None or (may_make(node, layer) and may_name(node, layer))


def _is_handed_on(nodes, named):
    """Whether a function is given a name of which nobody knows who calls it."""
    calls = {id(n.func) for _, n in nodes if isinstance(n, ast.Call)}
    return any(
        id(node) not in calls
        and isinstance(node, (ast.Name, ast.Attribute))
        and getattr(node, "attr", getattr(node, "id", None)) in named[file]
        for file, node in nodes
    )
