"""Which code of the user's may have run, as far as its text tells.

Neither a layer nor an op of a Functional model knows the line that called it.
A line that is looked for by name must not be one that nobody ever ran.
"""

import ast
import collections
import linecache

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# What is handed over here runs in training, when the model is made already.
_LATER = "compile"


def tree_of(file):
    """Returns the syntax tree of a file, an empty one if it has none."""
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def called(call):
    """Returns the bare name of what an `ast.Call` calls, `None` for others."""
    return _name(getattr(call, "func", None))


def _name(node):
    return getattr(node, "attr", getattr(node, "id", None))


class Reached:
    """The nodes of some files that module code leads to by names.

    Args:
        files: File names.
        running: `(file, function)` pairs that are on the stack.
    """

    def __init__(self, files, running=()):
        self._trees = {file: tree_of(file) for file in files}
        self._nodes = collections.defaultdict(list)
        self._names = collections.defaultdict(set)
        self._defined = collections.defaultdict(list)
        self._methods = collections.defaultdict(list)
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
                if isinstance(parent, ast.ClassDef):
                    self._methods[parent.name].append(inner)
            elif not later:
                self._nodes[scope].append(node)
                self._names[scope].add(_name(node))
            is_later = later or called(node) == _LATER
            self._see(file, node, inner, is_later)

    def _closed(self, scopes):
        found, waiting = set(), list(scopes)
        while waiting:
            scope = waiting.pop()
            if scope in found:
                continue
            found.add(scope)
            for name in self._names[scope]:
                waiting += self._defined.get(name, ())
                waiting += self._methods.get(name, ())
        return found

    def nodes(self):
        """Goes through `(file, node)` of all code that may have run."""
        for scope in self.scopes:
            for node in self._nodes[scope]:
                yield scope[0], node

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
