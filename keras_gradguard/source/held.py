"""Variables that a step may read and Keras does not know, and who holds them.

Keras knows what `add_weight` makes and what an attribute of a layer holds of
its own. A `tf.Variable` is neither, and neither is a layer in the closure of a
function. They are found where the user's code keeps them: from the attributes
of layers and losses on, through lists, objects of the user's classes, and the
names that the user's functions use.
"""

import ast
import collections
import dataclasses
import functools
import gc
import itertools
import sys
import types

import keras

from keras_gradguard.model.layers import layers_of, names_of_keras
from keras_gradguard.records.finding import Place
from keras_gradguard.source.declared import class_file, place_in
from keras_gradguard.source.frames import installed_package, is_users
from keras_gradguard.source.reachable import Sources, called

# A list of numbers may be long; what holds more is no list of variables.
_MOST_ITEMS = 1000
_MOST_VALUES = 20_000
# What `compile` gives a model.
_SKIPPED = frozenset(("loss", "optimizer"))
_LISTS = (list, tuple, set, frozenset, dict)
_PARTS = (keras.layers.Layer, *_LISTS)
_NO_HOLDERS = (*_LISTS, types.ModuleType, types.FrameType, type)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_SCOPES = (*_FUNCTIONS, ast.ClassDef)
_WRITES = ("assign", "scatter_", "batch_scatter_")
_SETTERS = ("set_value", "assign", "assign_add", "assign_sub")


@dataclasses.dataclass(frozen=True)
class Held:
    """A variable that Keras does not know, and who holds it.

    Args:
        variable: The `tf.Variable` or Keras variable.
        holder: An object of a class of the user's, or a function.
        name: Name of the attribute of the holder, or of what it uses.
        index: Place in lists and dicts there, such as `"/0"`, else empty.
        layer: The layer of the model that the search began at, or `None`.
        owner: The Keras layer that owns the variable and that the model does
            not know, `None` if it stands alone.
    """

    variable: object
    holder: object
    name: str
    index: str = ""
    layer: object = None
    owner: object = None

    @property
    def path(self):
        """What the variable is called in a report."""
        if self.owner is not None:
            return self.variable.path
        own = self.name or self.variable.name.partition(":")[0]
        names = [own + self.index]
        if self.layer is not None and not _is_function(self.holder):
            names.insert(0, self.layer.path or self.layer.name)
        return "/".join(names)


def is_users_own(file):
    """Returns whether a file is the user's, and of no installed package.

    Args:
        file: File name as a code object has it, or `None`.
    """
    return bool(file) and is_users(file) and installed_package(file) is None


def held_variables(model, known):
    """Finds variables that the user's code holds and Keras does not know.

    Args:
        model: The compiled model.
        known: Returns whether Keras knows a variable.

    Returns:
        A list of `Held`, each variable once; what is meant to be frozen, and
        what holds no floats, is left out.
    """
    return _Search(model, known).found


class _Search:
    """Follows what the user's code holds."""

    def __init__(self, model, known):
        self.found = []
        self._known = known
        self._seen, self._queue = set(), collections.deque()
        self._classes = {}
        tracked = layers_of(model)
        self._tracked = set(map(id, tracked))
        for layer in tracked:
            self._enter(layer, layer)
        for loss in keras.tree.flatten(getattr(model, "loss", None)):
            self._add(loss, None)
        while self._queue and len(self._seen) < _MOST_VALUES:
            self._look(*self._queue.popleft())

    def _add(self, value, held):
        """Takes a value in, `held` a `Held` without its variable."""
        if isinstance(value, (str, bytes, int, float, type(None))):
            return
        if id(value) not in self._seen:
            self._seen.add(id(value))
            self._queue.append((value, held))

    def _look(self, value, held):
        if isinstance(value, (type, types.ModuleType)):
            return
        if is_variable(value):
            self._take(value, held)
        elif isinstance(value, keras.layers.Layer):
            if id(value) not in self._tracked:
                self._take_layer(value, held)
        elif isinstance(value, _LISTS):
            self._look_into(value, held)
        elif _is_function(value):
            self._enter_function(_plain(value), getattr(held, "layer", None))
        else:
            self._enter(value, getattr(held, "layer", None))

    def _look_into(self, values, held):
        is_dict = isinstance(values, dict)
        items = values.items() if is_dict else enumerate(values)
        for key, item in list(itertools.islice(items, _MOST_ITEMS)):
            index = "" if held is None else f"{held.index}/{key}"
            inner = held and dataclasses.replace(held, index=index)
            self._add(item, inner)

    def _take(self, variable, held):
        if held is None or self._known(variable) or not may_train(variable):
            return
        self.found.append(dataclasses.replace(held, variable=variable))

    def _take_layer(self, layer, held):
        own = layer.trainable_variables if held is not None else ()
        for variable in own:
            self._seen.add(id(variable))
            if not self._known(variable) and may_train(variable):
                self.found.append(
                    dataclasses.replace(held, variable=variable, owner=layer)
                )
        for part in layers_of(layer):
            self._seen.add(id(part))
            self._enter(part, layer)

    def _enter(self, value, layer):
        """Looks at the attributes and methods of an object."""
        kind = type(value)
        if kind not in self._classes:
            classes = _users_classes(kind)
            self._classes[kind] = classes, _attributes_in(classes)
        classes, named = self._classes[kind]
        is_keras = isinstance(value, (keras.layers.Layer, keras.losses.Loss))
        if not (classes or is_keras):
            if isinstance(value, functools.partial):
                items = [("", value.func), *(("", one) for one in value.args)]
                for name, item in (*items, *value.keywords.items()):
                    self._add(item, Held(None, None, name, layer=layer))
            return
        names = getattr(value, "__dict__", {})
        skipped = _SKIPPED | names_of_keras() if is_keras else ()
        for name, item in list(names.items()):
            if name in skipped:
                continue
            # What a class of Keras or of another package holds, also below
            # one of the user's, is its affair.
            is_own = bool(classes)
            if is_keras and named is not None:
                is_own &= name in named
            is_part = isinstance(item, _PARTS) or is_variable(item)
            if is_own or not is_part:
                self._add(item, Held(None, value, name, layer=layer))
        for kind in classes:
            for member in list(vars(kind).values()):
                member = getattr(member, "__func__", member)
                if _is_function(member):
                    self._add(member, Held(None, value, "", layer=layer))

    def _enter_function(self, function, layer):
        code = getattr(function, "__code__", None)
        if code is None or not is_users_own(code.co_filename):
            return
        bound = getattr(function, "__self__", None)
        if bound is not None:
            self._add(bound, None)
        function = getattr(function, "__func__", function)
        for name, item in _names_of(function):
            self._add(item, Held(None, function, name, layer=layer))


def is_variable(value):
    """Returns whether a value is a `tf.Variable` or one of Keras."""
    return keras.ops.is_tensor(value) and hasattr(value, "assign")


def may_train(variable):
    """Returns whether a variable holds floats, and is not frozen."""
    dtype = getattr(variable.dtype, "name", variable.dtype)
    return bool(variable.trainable) and "float" in dtype


def _is_function(value):
    return isinstance(_plain(value), (types.FunctionType, types.MethodType))


def _plain(value):
    """The Python function behind a `tf.function`."""
    is_traced = hasattr(type(value), "get_concrete_function")
    return getattr(value, "python_function", value) if is_traced else value


def _names_of(function):
    """`(name, value)` of the closure, the globals and defaults in use."""
    code, found = function.__code__, []
    cells = function.__closure__ or ()
    for name, cell in zip(code.co_freevars, cells, strict=True):
        try:
            found.append((name, cell.cell_contents))
        except ValueError:
            continue  # It has no value yet.
    for name in sorted(_global_names(code)):
        if name in function.__globals__:
            found.append((name, function.__globals__[name]))
    defaults = function.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount]
    found += zip(names[len(names) - len(defaults) :], defaults, strict=False)
    return found + list((function.__kwdefaults__ or {}).items())


def _global_names(code):
    names = set(code.co_names)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            names |= _global_names(inner)
    return names


def _users_classes(kind):
    """A class and those below it, as far as the user's own code has them."""
    return [one for one in kind.__mro__ if is_users_own(_file_of(one))]


def _file_of(kind):
    """The file of a class of the user's, `None` for those of others."""
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None)
    if file is not None and not is_users_own(file):
        return None
    found = class_file(kind)
    # The methods of a dataclass are in no file.
    return file if found in (None, "<string>") else found


def _attributes_in(classes):
    """The attributes that classes name; `None` where no text is known."""
    sources = Sources()
    bodies = [body for kind in classes for body in _bodies(sources, kind)]
    if not bodies:
        return None
    nodes = itertools.chain(*map(ast.walk, bodies))
    return {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def _bodies(sources, kind):
    """The text of a class, in a list of one; of none where two may be it."""
    file = _file_of(kind)
    found = [
        node
        for node in ast.walk(sources.tree(file))
        if isinstance(node, ast.ClassDef) and node.name == kind.__name__
    ]
    if len(found) > 1:
        lines = [
            member.__code__.co_firstlineno
            for member in map(_plain, vars(kind).values())
            if isinstance(member, types.FunctionType)
            and member.__code__.co_filename == file
        ]
        found = [
            node
            for node in found
            if lines and node.lineno <= lines[0] <= node.end_lineno
        ]
    return found if len(found) == 1 else []


class Makers:
    """The lines that make what the user's code holds.

    Args:
        sources: The `Sources` of one look.
    """

    def __init__(self, sources=None):
        self._sources = sources or Sources()

    def place(self, held):
        """Finds the line that makes a variable, or the layer that owns it.

        Args:
            held: A `Held`.

        Returns:
            A `Place`, empty where no line or more than one fits.
        """
        maker = "Variable"
        if held.owner is not None:
            maker = type(held.owner).__name__
        if _is_function(held.holder):
            return self._of_function(held.holder, held.name, maker)
        for kind in _users_classes(type(held.holder)):
            for body in _bodies(self._sources, kind):
                statements = _stores(body, held.name, True)
                if statements:
                    return self._chosen(_file_of(kind), statements, maker)
        return Place()

    def _of_function(self, function, name, maker):
        code = function.__code__
        file, tree = code.co_filename, self._sources.tree(code.co_filename)
        around = [
            node
            for node in ast.walk(tree)
            if isinstance(node, _FUNCTIONS)
            and node.lineno <= code.co_firstlineno <= node.end_lineno
        ]
        around.sort(key=lambda node: node.end_lineno - node.lineno)
        is_argument = name in code.co_varnames
        scopes = [tree]
        if is_argument or name in code.co_freevars:
            scopes = [*around, tree]
        for scope in scopes:
            statements = _stores(scope, name, False)
            if statements:
                return self._chosen(file, statements, maker, is_argument)
        return Place()

    def _chosen(self, file, statements, maker, is_sure=False):
        """The place of the one statement that makes it.

        Args:
            file: Their file.
            statements: All that give a name what it holds.
            maker: Name of the function or class that makes it.
            is_sure: Whether the statement must call `maker` itself.
        """
        wanted = [s for s in statements if _calls(s, maker)]
        if not (wanted or is_sure):
            # A function of the user's may make it. A first `None` or `[]`
            # does not.
            wanted = [s for s in statements if _computes(s)]
        lines = {statement.lineno for statement in wanted}
        if len(lines) != 1:
            return Place()
        return place_in(self._sources, file, lines.pop())

    def is_written(self, held):
        """Returns whether code of the user's gives a variable new values.

        Not that of the step alone: a callback may, or a loop around `fit`.

        Args:
            held: A `Held`.
        """
        kinds = {kind.__name__ for kind in type(held.holder).__mro__}
        files = dict.fromkeys(self._sources.files)
        own = getattr(held.holder, "__code__", None)
        files |= {} if own is None else {own.co_filename: None}
        files |= dict.fromkeys(map(_file_of, _users_classes(type(held.holder))))
        return any(
            self._writes(self._sources.tree(file), held.name, kinds)
            for file in files
        ) or any(
            isinstance(other, keras.callbacks.Callback)
            or self._is_written_by(other, name)
            for other, name in _others(held)
        )

    def _is_written_by(self, other, name):
        """Whether the class of an object writes to an attribute of it."""
        classes = _users_classes(type(other))
        kinds = {kind.__name__ for kind in classes}
        return any(
            self._writes(body, name, kinds)
            for kind in classes
            for body in _bodies(self._sources, kind)
        )

    def _writes(self, tree, name, kinds):
        classes = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
        foreign = {
            id(node)
            for body in classes
            if body.name not in kinds
            for node in ast.walk(body)
        }
        first = {
            id(node)
            for body in classes
            if body.name in kinds
            for method in body.body
            if getattr(method, "name", None) in ("__init__", "build")
            for node in ast.walk(method)
        }
        return any(
            _name_of(target) == name
            and not (id(node) in foreign and _is_of_self(target))
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and id(node) not in first
            for target in _written(node)
        )


def _written(call):
    """The expressions of what a call gives a value to."""
    name = called(call) or ""
    found = []
    if isinstance(call.func, ast.Attribute) and name.startswith(_WRITES):
        found.append(call.func.value)
    if name in _SETTERS and call.args:
        found.append(call.args[0])
    return found


def _name_of(node):
    """The last name of `self.books[0]`, `None` for what has none."""
    while isinstance(node, ast.Subscript):
        node = node.value
    return getattr(node, "attr", getattr(node, "id", None))


def _is_of_self(node):
    while isinstance(node, ast.Subscript):
        node = node.value
    return getattr(getattr(node, "value", None), "id", None) == "self"


def _others(held):
    """`(object, attribute)` of what else holds a variable."""
    for value in gc.get_referrers(held.variable):
        owners = [value]
        if type(value) is dict:
            owners = gc.get_referrers(value)
        for owner in owners:
            # Asking for `__class__` would wake up lazy modules and proxies.
            if owner is held.holder or issubclass(type(owner), _NO_HOLDERS):
                continue
            names = getattr(owner, "__dict__", {})
            for name, item in list(names.items()):
                if item is held.variable:
                    yield owner, name


def _stores(scope, name, is_attribute):
    """The statements of a scope that give a name what it holds."""
    found = []
    for node in ast.walk(scope) if is_attribute else _own_nodes(scope):
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, (ast.AnnAssign, ast.AugAssign, ast.NamedExpr)):
            targets = [node.target]
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            # `self.books.append(...)`
            targets = [getattr(node.value.func, "value", None)]
        else:
            continue
        kind = ast.Attribute if is_attribute else ast.Name
        flat = [
            inner
            for target in targets
            for inner in getattr(target, "elts", [target])
        ]
        if any(isinstance(t, kind) and _name_of(t) == name for t in flat):
            found.append(node)
    return found


def _own_nodes(scope):
    """The nodes of a scope, without those of the scopes inside of it."""
    waiting = list(ast.iter_child_nodes(scope))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, _SCOPES):
            waiting += ast.iter_child_nodes(node)


def _computes(statement):
    """Whether an assignment has more on its right than plain values."""
    value = getattr(statement, "value", None)
    return not isinstance(statement, ast.Expr) and any(
        isinstance(node, (ast.Call, ast.Name, ast.Attribute))
        for node in ast.walk(value or ast.Pass())
    )


def _calls(statement, maker):
    return any(
        isinstance(node, ast.Call) and called(node) == maker
        for node in ast.walk(statement)
    )
