"""The line that sets a learning rate, or `trainable`.

A schedule and a callback know their function or class; where a rate is set by
hand the line is looked for in the sources. Where two fit there is no answer.
"""

import ast
import inspect
import math

import keras

from keras_gradguard.records.finding import Place
from keras_gradguard.source.declared import class_file, place_in, running
from keras_gradguard.source.frames import is_users, place_at
from keras_gradguard.source.reachable import Sources, called
from keras_gradguard.source.syntax import returns_of

_NAMES = ("learning_rate", "lr")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_SCHEDULER = keras.callbacks.LearningRateScheduler
_PLATEAU = keras.callbacks.ReduceLROnPlateau


class RateLines:
    """Finds what has set the learning rate of an optimizer.

    The sources are read once: make another object for each look.

    Args:
        callbacks: The callbacks of the `fit` that runs.
    """

    def __init__(self, callbacks=()):
        kinds = (_SCHEDULER, _PLATEAU)
        self._callbacks = [c for c in callbacks if isinstance(c, kinds)]
        self._sources = Sources()
        self._reached = self._sources.reached(running())

    def place(self, optimizer, schedule, rate, has_changed):
        """Finds the line of a rate.

        Args:
            optimizer: The optimizer that makes the update.
            schedule: Its schedule, or `None`.
            rate: The rate, a float.
            has_changed: Whether it was another one before.

        Returns:
            A `Place`, empty where none or more than one may have set it.
        """
        if schedule is not None:
            return _only(self._of_schedule(schedule))
        found = self._set_by_hand(rate)
        scheduled = False
        for callback in self._callbacks:
            if isinstance(callback, _SCHEDULER):
                scheduled = True
                found.append(_of_function(callback.schedule))
            elif has_changed:
                found += self._made(callback) or [None]
        if not (has_changed or scheduled):
            found += self._made(optimizer, dict.fromkeys(_NAMES, rate))
        return _only(found)

    def _of_schedule(self, schedule):
        """Where the user's own computes, or where one of Keras' is made."""
        function = inspect.unwrap(type(schedule).__call__)
        if is_users(function.__code__.co_filename):
            return [_of_function(function)]
        return self._made(schedule)

    def _made(self, value, known=()):
        """The places of the calls that may have made an object."""
        names, found = (type(value).__name__,), []
        parameters = inspect.signature(type(value).__init__).parameters
        values = {n: getattr(value, n, None) for n in parameters} | dict(known)
        for file, node in self._nodes():
            if (
                isinstance(node, ast.Call)
                and called(node) in self._reached.aliases(file, names)
                and not self._reached.is_foreign(file, node)
                and _may_hold(node, list(parameters)[1:], values)
            ):
                found.append(place_in(self._sources, file, node.lineno))
        return found

    def _set_by_hand(self, rate):
        """The places that may set a rate; `None` for one of who knows what."""
        found = []
        for file, node in self._nodes():
            for owner, value in _rates_set(node):
                if getattr(owner, "id", None) == "self":
                    continue
                name = getattr(owner, "attr", getattr(owner, "id", ""))
                if _contradicts(value, rate):
                    continue
                is_optimizer = "opt" in name.lower()
                place = place_in(self._sources, file, node.lineno)
                found.append(place if is_optimizer else None)
        return found

    def _nodes(self):
        """`(file, node)` of the code that may have run, `compile` included."""
        for file, function in self._reached.scopes:
            begin = self._sources.tree(file) if function is None else function
            yield from ((file, node) for node in _inside(begin))


def unfreezing_place(callbacks):
    """Finds the line of a callback that sets `trainable`, but for `False`.

    Args:
        callbacks: The callbacks of the `fit` that runs.

    Returns:
        A `Place`, empty where no callback of the user's has such a line, or
        more than one.
    """
    sources, found = Sources(), []
    for kind in dict.fromkeys(k for c in callbacks for k in type(c).__mro__):
        file = class_file(kind)
        if file is None or not is_users(file):
            continue
        found += [
            place_in(sources, file, node.lineno)
            for known in ast.walk(sources.tree(file))
            if isinstance(known, ast.ClassDef) and known.name == kind.__name__
            for node in ast.walk(known)
            if _unfreezes(node)
        ]
    return _only(found)


def _unfreezes(node):
    if not isinstance(node, ast.Assign):
        return False
    if isinstance(node.value, ast.Constant) and not node.value.value:
        return False
    return any(getattr(t, "attr", None) == "trainable" for t in node.targets)


def _only(places):
    """The one place of some, an empty one if there are more, or `None`s."""
    found = {p and (p.file, p.line): p for p in places}
    (place,) = found.values() if len(found) == 1 else (None,)
    return place or Place()


def _of_function(function):
    """Where a function of the user's returns a rate, `None` if it is none."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None or not is_users(code.co_filename):
        return None
    lines = set(returns_of(code))
    line = lines.pop() if len(lines) == 1 else code.co_firstlineno
    return place_at(code.co_filename, line, code.co_name)


def _inside(begin):
    """The nodes of a function or module without those of functions in it."""
    waiting = list(ast.iter_child_nodes(begin))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, _FUNCTIONS):
            waiting += ast.iter_child_nodes(node)


def _rates_set(node):
    """`(owner, value)` of each `owner.learning_rate` that a node sets."""
    targets, value = [], getattr(node, "value", None)
    if isinstance(node, ast.Assign):
        targets = [t for one in node.targets for t in _elements(one)]
        if any(isinstance(one, (ast.Tuple, ast.List)) for one in node.targets):
            value = None
    elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
        targets = [node.target]
        value = None if isinstance(node, ast.AugAssign) else value
    elif isinstance(node, ast.Call) and called(node) == "assign":
        targets = [getattr(node.func, "value", None)]
        value = node.args[0] if node.args else None
    return [
        (target.value, value)
        for target in targets
        if isinstance(target, ast.Attribute) and target.attr in _NAMES
    ]


def _elements(target):
    return getattr(target, "elts", [target])


def _contradicts(node, value):
    """Whether an expression is a plain value, and surely not this one."""
    try:
        written = ast.literal_eval(node)
    except (TypeError, ValueError):
        return False
    if isinstance(written, (int, float)) and isinstance(value, (int, float)):
        return not math.isclose(written, value, rel_tol=1e-5)
    if isinstance(written, str) and isinstance(value, str):
        return written != value
    return False


def _may_hold(call, names, values):
    """Whether no argument of a call contradicts what an object holds."""
    given = dict(zip(names, call.args, strict=False))
    given |= {keyword.arg: keyword.value for keyword in call.keywords}
    return not any(
        _contradicts(node, values.get(name)) for name, node in given.items()
    )
