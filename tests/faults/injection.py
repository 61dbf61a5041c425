"""Lets any function of the package raise at any of its calls.

Each function, method, property and lambda of `keras_gradguard` gets a first
statement that asks whether to raise. The source is changed as it is imported,
so a function that is written tomorrow is covered as well.
"""

import ast
import builtins
import collections
import importlib.machinery
import pathlib
import sys

PACKAGE = "keras_gradguard"
ROOT = pathlib.Path(__file__).parents[2] / PACKAGE
_ASK, _FAULT = "__gradguard_fails__", "__gradguard_fault__"


class _Asking(ast.NodeTransformer):
    """Puts the question into each function; `names` are those it met."""

    def __init__(self, module):
        self._within = [module]
        self.names = []

    def _entered(self, name):
        self._within.append(name)
        full = ".".join(self._within).removeprefix(f"{PACKAGE}.")
        count = sum(known.split("#")[0] == full for known in self.names)
        full = f"{full}#{count + 1}" if count else full
        self.names.append(full)
        return f"{_ASK}({full!r})"

    def visit_ClassDef(self, node):
        self._within.append(node.name)
        self.generic_visit(node)
        self._within.pop()
        return node

    def visit_FunctionDef(self, node):
        question = self._entered(node.name)
        self.generic_visit(node)
        self._within.pop()
        place = int(ast.get_docstring(node, clean=False) is not None)
        where = node.body[min(place, len(node.body) - 1)]
        # What is raised is raised here, and not in what is asked.
        (asked,) = ast.parse(f"if {question}: raise {_FAULT}()").body
        node.body.insert(place, _placed(asked, where))
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node):
        question = self._entered("<lambda>")
        self.generic_visit(node)
        self._within.pop()
        asked = ast.parse(
            f"({question} and (_ for _ in ()).throw({_FAULT}()), 0)[1]",
            mode="eval",
        ).body
        where = node.body
        _placed(asked, where).value.elts[1] = where
        node.body = asked
        return node


def _placed(tree, where):
    """Gives all of a tree the place of another."""
    for node in ast.walk(tree):
        if "lineno" in node._attributes:
            ast.copy_location(node, where)
    return tree


def _transformed(source, path, module):
    asking = _Asking(module)
    return asking.visit(ast.parse(source, path)), asking.names


def functions():
    """Returns the name of every function of the package, without importing."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        module = ".".join(parts).removesuffix(".__init__")
        found += _transformed(path.read_text(), str(path), module)[1]
    return found


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname):
        path = self.get_filename(fullname)
        source = self.get_data(path).decode()
        tree, _ = _transformed(source, path, fullname)
        return compile(tree, path, "exec", dont_inherit=True)


class _Finder:
    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] != PACKAGE:
            return None
        find = importlib.machinery.PathFinder.find_spec
        spec = find(fullname, path, target)
        if isinstance(
            getattr(spec, "loader", None), importlib.machinery.SourceFileLoader
        ):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class Injector:
    """Counts the calls of all functions, and lets one of them fail.

    Attributes:
        calls: How often each function was called while it was on.
        num_raised: How many faults were raised.
    """

    def __init__(self):
        self.calls = collections.Counter()
        self.num_raised = 0
        self.is_on = False
        self._name = self._kind = None
        self._call, self._is_lasting = 0, False

    def arm(self, name, call, kind, is_lasting):
        """Lets a function fail.

        Args:
            name: The function, `None` for none.
            call: At which of its calls, from 1.
            kind: The class of the exception.
            is_lasting: Whether each later call fails too.
        """
        self._name, self._call = name, call
        self._kind, self._is_lasting = kind, is_lasting
        self.calls.clear()
        self.num_raised = 0

    def __call__(self, name):
        """What each function asks first."""
        if not self.is_on:
            return False
        self.calls[name] += 1
        if name != self._name:
            return False
        number = self.calls[name]
        is_due = number == self._call
        is_due = is_due or (self._is_lasting and number > self._call)
        self.num_raised += is_due
        return is_due

    def fault(self):
        """Returns the exception."""
        return self._kind("injected")

    def __enter__(self):
        self.is_on = True

    def __exit__(self, *_):
        self.is_on = False


def install():
    """Has the package imported with the questions; returns the `Injector`."""
    if PACKAGE in sys.modules:
        raise RuntimeError(f"{PACKAGE} is imported already")
    injector = Injector()
    setattr(builtins, _ASK, injector)
    setattr(builtins, _FAULT, injector.fault)
    sys.meta_path.insert(0, _Finder())
    return injector
