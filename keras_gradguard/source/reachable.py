"""Which code of the user's may have run, as far as its text tells.

Neither a layer nor an op of a Functional model knows the line that called it.
A line that is looked for by name must not be one that nobody ever ran.
"""

import ast
import collections
import functools
import gc
import itertools
import linecache
import os
import sys
import types

from keras_gradguard.source.frames import (
    FRAMEWORKS,
    installed_package,
    is_users,
)
from keras_gradguard.source.syntax import tree_of

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# What is handed over here runs in training, when the model is made already.
_LATER = "compile"
# Stands for each function: which one a look-up leads to is not in the text.
_ANY = "*"
_LOADERS = frozenset(("modules", "import_module"))
# Decorators that keep a function where it is; others may hand it on.
_KEEPING = frozenset(
    ("property", "setter", "staticmethod", "classmethod", "function")
)


class Sources:
    """The user's files that are loaded, read once however often asked for.

    Modules come and go: make another one for the next look.
    """

    def __init__(self):
        self._trees, self._reached = {}, {}

    @functools.cached_property
    def files(self):
        """The user's files of which code may have run, of modules and cells."""
        return [file for file in _loaded_files() if is_users(file)]

    def tree(self, file):
        """Returns `tree_of` a file."""
        if file not in self._trees:
            self._trees[file] = tree_of(file)
        return self._trees[file]

    def reached(self, stack):
        """Returns what module code and the code that runs lead to.

        Args:
            stack: `(file, function)` of the code that runs.

        Returns:
            A `ReachableCode`, the same for the same code of the user's.
        """
        running = {known for known in stack if is_users(known[0])}
        key = frozenset(running)
        if key not in self._reached:
            files = dict.fromkeys([*(f for f, _ in running), *self.files])
            trees = {file: self.tree(file) for file in files}
            self._reached[key] = ReachableCode(trees, running)
        return self._reached[key]


def _loaded_files():
    """The files of loaded modules that lie in no installed package."""
    modules = dict.fromkeys(map(id, sys.modules.values()))
    found = list(sys.modules.values())
    # What `%run` and loaders by path have loaded is registered nowhere.
    found += [
        value
        for value in gc.get_objects()
        if type(value) is types.ModuleType and id(value) not in modules
    ]
    files = (getattr(module, "__file__", None) for module in found)
    known = [f for f in files if f and installed_package(f) is None]
    return dict.fromkeys([*known, *_cells()])


def _cells():
    """What a notebook has run: it is in no file, and in no module."""
    return [
        name
        for name, entry in list(linecache.cache.items())
        if len(entry) > 1 and not os.path.exists(name)
    ]


def called(call):
    """Returns the bare name of what an `ast.Call` calls, `None` for others."""
    return _name(getattr(call, "func", None))


def _root(node):
    """The name that a chain of attributes begins with."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return getattr(node, "id", None)


def _imports(tree):
    """The module behind each name that a file imports."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for known in node.names:
                first = known.name.split(".")[0]
                found[known.asname or first] = known.name
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for known in node.names:
                found[known.asname or known.name] = module
    return found


def _may_be_users(module):
    """Whether a module may be the user's own, as far as is known."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if module in sys.stdlib_module_names:
        return False
    return file is None or is_users(file)


def _named(node):
    return called(node) if isinstance(node, ast.Call) else _name(node)


def _name(node):
    return getattr(node, "attr", getattr(node, "id", None))


class ReachableCode:
    """The nodes of some files that module code leads to by names.

    Args:
        trees: The syntax tree of each, by file name.
        running: `(file, function)` pairs that are on the stack.
    """

    def __init__(self, trees, running=()):
        self._trees = trees
        self._nodes = collections.defaultdict(list)
        self._names = collections.defaultdict(set)
        self._defined = collections.defaultdict(list)
        self._methods = collections.defaultdict(list)
        self._imported = {f: _imports(tree) for f, tree in self._trees.items()}
        begun = []
        for file, tree in self._trees.items():
            begun.append((file, None))
            self._see(file, tree, (file, None), False)
        begun += [
            scope
            for scopes in list(self._defined.values())
            for scope in scopes
            if (scope[0], scope[1].name) in running
        ]
        self.scopes = self._closed(begun)

    def _see(self, file, parent, scope, later):
        for node in ast.iter_child_nodes(parent):
            inner = scope
            if isinstance(node, _FUNCTIONS):
                inner = (file, node)
                self._defined[node.name].append(inner)
                if not _KEEPING.issuperset(map(_named, node.decorator_list)):
                    self._names[scope].add(node.name)
                if isinstance(parent, ast.ClassDef):
                    self._methods[parent.name].append(inner)
            elif not later:
                self._nodes[scope].append(node)
                self._names[scope].add(_name(node))
                if isinstance(node, ast.alias) and node.asname:
                    self._names[scope].add(node.name)
                if self._looks_up(file, node):
                    self._names[scope].add(_ANY)
            is_later = later or called(node) == _LATER
            self._see(file, node, inner, is_later)

    def _closed(self, scopes):
        found, waiting = set(), list(scopes)
        while waiting:
            scope = waiting.pop()
            if scope in found:
                continue
            found.add(scope)
            if _ANY in self._names[scope]:
                waiting += itertools.chain(*self._defined.values())
            for name in self._names[scope]:
                waiting += self._defined.get(name, ())
                waiting += self._methods.get(name, ())
        return found

    def _looks_up(self, file, node):
        """Whether a name that is not in the text may lead to a function."""
        name = called(node)
        if name in ("globals", "eval"):
            return True
        if name != "getattr" or len(node.args) < 2:
            return False
        holder, attribute = node.args[:2]
        if isinstance(attribute, ast.Constant):
            return False
        if not _LOADERS.isdisjoint(map(_name, ast.walk(holder))):
            return True
        module = self._imported[file].get(_root(holder))
        return module is not None and _may_be_users(module)

    def is_foreign(self, file, call):
        """Returns whether a call is of a package that makes no layers.

        Args:
            file: One of the files.
            call: An `ast.Call`.
        """
        module = self._imported[file].get(_root(call.func))
        return module is not None and not (
            _may_be_users(module) or module.split(".")[0] in FRAMEWORKS
        )

    @functools.cached_property
    def nodes(self):
        """`(file, node)` of all code that may have run."""
        return [
            (scope[0], node)
            for scope in self.scopes
            for node in self._nodes[scope]
        ]

    @property
    def files(self):
        """The names of the files."""
        return list(self._trees)

    def aliases(self, file, names):
        """Returns names and those under which a file imports them.

        Args:
            file: One of the files.
            names: Names of functions or classes.
        """
        return {*names} | {
            known.asname
            for node in ast.walk(self._trees[file])
            if isinstance(node, ast.ImportFrom)
            for known in node.names
            if known.name in names and known.asname
        }
