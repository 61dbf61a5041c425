"""The line that a finding names, as syntax that can be rewritten."""

import ast
import dataclasses
import functools
import io

from keras_gradguard.source.dialect import Dialect
from keras_gradguard.source.lines import lines_of
from keras_gradguard.source.reachable import called

SAME = "the value stays the same"


@dataclasses.dataclass(frozen=True)
class Edit:
    """Text that takes the place of other text.

    Args:
        start: Offset of the first letter that goes, in the file's text.
        end: Offset behind the last one.
        text: What comes in its place.
    """

    start: int
    end: int
    text: str


@dataclasses.dataclass(frozen=True)
class Rewrite:
    """A change of the user's code that may correct it.

    Args:
        text: What it does, imperative, one line, no full stop.
        edits: The `Edit`s.
        effect: What becomes of the value, a clause; `None` if it stays.
        attributes: `(layer, name, value)` of the layers that the changed code
            would have made otherwise.
        weights: `(variable, value)` of what it would have initialised
            otherwise.
        tracked: `(layer, variable, path)` of the weights that a layer would
            have beside its own.
    """

    text: str
    edits: tuple[Edit, ...]
    effect: str | None = None
    attributes: tuple = ()
    weights: tuple = ()
    tracked: tuple = ()

    @property
    def keeps_value(self):
        """Whether the value is said to stay the same, which a trial checks."""
        return self.effect is not None and self.effect.startswith(SAME)


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


class Site:
    """A line of the user's, the function around it, and what is known.

    Args:
        finding: A `Finding` with a line.
        text: Another text of its file with as many lines; by default the one
            that Python knows.
    """

    def __init__(self, finding, text=None):
        self.finding = finding
        self.file, self.line = finding.place.file, finding.place.line
        # As Python counts lines: a form feed begins none.
        self._lines = lines_of(self.file)
        if text is not None:
            self._lines = list(io.StringIO(text))
        self.text = "".join(self._lines)
        self.dialect = Dialect.at(finding.place)
        try:
            self._tree = ast.parse(self.text)
        except (SyntaxError, ValueError):
            self._tree = ast.Module([], [])
        self._parents = {
            child: node
            for node in ast.walk(self._tree)
            for child in ast.iter_child_nodes(node)
        }

    @functools.cached_property
    def function(self):
        """The innermost function around the line, `None` in a module."""
        found = [
            node
            for node in ast.walk(self._tree)
            if isinstance(node, _FUNCTIONS) and self.covers(node)
        ]
        return max(found, key=lambda n: n.lineno, default=None)

    @property
    def parameters(self):
        """Names of the function's positional parameters, without `self`."""
        if self.function is None:
            return []
        names = [one.arg for one in self.function.args.args]
        return names[1:] if names[:1] == ["self"] else names

    @functools.cached_property
    def nodes(self):
        """The nodes on the line, the outer ones first."""
        return [node for node in ast.walk(self._tree) if self._begins(node)]

    @functools.cached_property
    def around(self):
        """The nodes of the whole function that holds the line."""
        holder = self.function
        while isinstance(holder, ast.Lambda):
            holder = self.parent(holder)
            if not isinstance(holder, ast.AST):
                return self.nodes
        return list(ast.walk(holder)) if holder is not None else self.nodes

    def covers(self, node):
        """Returns whether a node stands on the line or runs over it."""
        return node.lineno <= self.line <= node.end_lineno

    def _begins(self, node):
        """An expression that runs over the line, no statement around it."""
        if not hasattr(node, "lineno") or not self.covers(node):
            return False
        if isinstance(node, ast.expr):
            return not isinstance(node, ast.Lambda)
        if isinstance(node, ast.If):
            # One around the line is another matter.
            return node.lineno == self.line
        return isinstance(node, (ast.Assign, ast.AugAssign, ast.Return))

    def same(self, other):
        """Returns the call that stands where one of another tree does.

        Args:
            other: An `ast.Call` of the same text; `None` is returned where
                the text is another one.
        """
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Call) and _span(node) == _span(other):
                return node
        return None

    def insert(self, call, text):
        """Returns the `Edit` that adds an argument to a call.

        Args:
            call: An `ast.Call`.
            text: The argument.
        """
        given = [*call.args, *(keyword.value for keyword in call.keywords)]
        end = self.replace(call, "").end - 1
        if given:
            # Behind an argument that another edit may replace.
            end = max(self.replace(one, "").end for one in given)
            text = f", {text}"
        return Edit(end, end, text)

    def parent(self, node):
        """Returns the node around another one, `None` for the module."""
        return self._parents.get(node)

    def source(self, node):
        """Returns the text of a node."""
        return ast.get_source_segment(self.text, node) or ""

    def bare(self, node, text):
        """Returns a text, without its parentheses for a node that is alone."""
        is_alone = isinstance(self.parent(node), (ast.Assign, ast.Return))
        return text[1:-1] if is_alone else text

    def operand(self, node):
        """Returns the text of a node as an operand of an operator."""
        text = self.source(node)
        simple = (ast.Name, ast.Call, ast.Attribute, ast.Subscript)
        if isinstance(node, (*simple, ast.Constant)) or text.startswith("("):
            return text
        return f"({text})"

    def ops(self, name):
        """Returns the name of an operation in the dialect of the line."""
        return self.dialect.operation(name)

    def calls(self, *names, nodes=None):
        """Yields the calls of functions with some names, on the line.

        Args:
            names: Last parts of dotted names, e.g. `"argmax"`.
            nodes: Where to look; by default on the line.
        """
        for node in self.nodes if nodes is None else nodes:
            if isinstance(node, ast.Call) and called(node) in names:
                yield node

    def replace(self, node, text):
        """Returns the `Edit` that puts a text in the place of a node."""
        start = self._offset(node.lineno, node.col_offset)
        end = self._offset(node.end_lineno, node.end_col_offset)
        return Edit(start, end, text)

    def assigned(self, name):
        """Returns what the function assigns to a name, a list of nodes."""
        return [
            node.value
            for node in self.around
            if isinstance(node, ast.Assign)
            and any(getattr(t, "id", None) == name for t in node.targets)
        ]

    def reads_of(self, name):
        """Returns the nodes of the function that read a name."""
        return [
            node
            for node in self.around
            if isinstance(node, ast.Name)
            and node.id == name
            and isinstance(node.ctx, ast.Load)
        ]

    def with_replaced(self, node, parts):
        """Returns the text of a node with other text for some parts of it.

        Args:
            node: The node.
            parts: `(part, text)` pairs of nodes inside of it.
        """
        start = self.replace(node, "").start
        edits = [self.replace(part, text) for part, text in parts]
        moved = [Edit(e.start - start, e.end - start, e.text) for e in edits]
        return edited(self.source(node), moved)

    def resolved(self, node):
        """Returns what a node is, behind casts and a name assigned once."""
        for _ in range(4):
            if called(node) == "cast" and node.args:
                node = node.args[0]
            elif isinstance(node, ast.Name):
                made = self.assigned(node.id)
                if len(made) != 1:
                    return node
                node = made[0]
        return node

    def nodes_of_function(self, name):
        """Returns the nodes of the functions of the file with a name."""
        return [
            node
            for function in ast.walk(self._tree)
            if isinstance(function, _FUNCTIONS[:2]) and function.name == name
            for node in ast.walk(function)
        ]

    def text_between(self, first, last):
        """Returns the text from the begin of one node to the end of another."""
        start, end = self.replace(first, "").start, self.replace(last, "").end
        return self.text[start:end]

    @property
    def statement(self):
        """The innermost statement that runs over the line, or `None`."""
        found = [
            node
            for node in self.around
            if isinstance(node, ast.stmt) and self.covers(node)
        ]
        return max(found, key=lambda n: n.lineno, default=None)

    def siblings(self, node):
        """Returns `(before, behind)`: the statements of a statement's block."""
        for body in ("body", "orelse", "finalbody"):
            found = getattr(self.parent(node), body, None)
            if isinstance(found, list) and node in found:
                number = found.index(node)
                return found[:number], found[number + 1 :]
        return [], []

    def next_statement(self, node):
        """Returns the statement behind one, `None` if it is the last."""
        _, later = self.siblings(node)
        return later[0] if later else None

    def names(self):
        """Returns the names that the function uses or sets."""
        return {
            getattr(node, "id", None) or getattr(node, "arg", None)
            for node in self.around
        }

    def line_start(self, line):
        """Returns the offset of a line's first letter, from line 1."""
        return sum(map(len, self._lines[: line - 1]))

    def lines_of(self, node):
        """Returns the text of the whole lines that a node runs over."""
        return "".join(self._lines[node.lineno - 1 : node.end_lineno])

    @functools.cached_property
    def modules(self):
        """Name of each imported module in the file -> its full name."""
        return {
            item.asname or item.name: item.name
            for node in ast.walk(self._tree)
            if isinstance(node, ast.Import)
            for item in node.names
        }

    @functools.cached_property
    def names_imported(self):
        """The names that imports give the whole file, a set."""
        return {
            item.asname or item.name
            for node in self._tree.body
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for item in node.names
        }

    def _offset(self, line, column):
        """Offset of a position as `ast` counts, in bytes of UTF-8."""
        before = sum(map(len, self._lines[: line - 1]))
        known = self._lines[line - 1].encode()[:column]
        return before + len(known.decode(errors="ignore"))


def _span(node):
    return node.lineno, node.col_offset, node.end_lineno, node.end_col_offset


def edited(text, edits):
    """Returns a text with some edits made; those inside others are dropped.

    Args:
        text: The text.
        edits: `Edit`s in any order.
    """
    outer = []
    for edit in sorted(edits, key=lambda e: (e.start, -e.end)):
        if not outer or edit.start >= outer[-1].end:
            outer.append(edit)
    for edit in reversed(outer):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


def given(call, *names, at=0):
    """Returns an argument by one of its names or by position, or `None`.

    Args:
        call: An `ast.Call`.
        names: Names that the argument has in one library or the other.
        at: Its position, `None` if it has none that all of them share.
    """
    for keyword in call.keywords:
        if keyword.arg in names:
            return keyword.value
    if at is None or len(call.args) <= at:
        return None
    return call.args[at]
