"""The package as modules and imports, read from the source.

`python -m tests.project.structure` prints what the tests of the structure
count.
"""

import ast
import collections
import functools
import pathlib

PACKAGE = pathlib.Path(__file__).parents[2] / "keras_gradguard"


@functools.cache
def files():
    """Returns the file of each module, by its name without the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        found[".".join(parts)] = path
    return found


@functools.cache
def names_imported(module):
    """Returns the full names that a module imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(files()[module].read_text())):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return frozenset(found)


@functools.cache
def imports(module):
    """Returns the modules of the package that a module imports.

    What a package's `__init__` hands on counts as imported from the module
    that holds it.
    """
    found = set()
    for name in names_imported(module):
        top, _, rest = name.partition(".")
        if top != PACKAGE.name:
            continue
        while rest and rest not in files():
            rest = rest.rpartition(".")[0]
        held = files().get(rest)
        if held is not None and held.name == "__init__.py":
            found |= _handed_on(rest, name.rpartition(".")[2])
        else:
            found.add(rest)
    return frozenset(found - {module, ""})


def _handed_on(package, name):
    """The module behind a name that an `__init__` imports."""
    for node in ast.walk(ast.parse(files()[package].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if name in {alias.name for alias in node.names}:
                return {node.module.partition(".")[2]}
    return {package}


def folder(module):
    """Returns the folder of a module, `""` for one in the root.

    The folders of the TensorFlow backend are told apart.
    """
    parts = module.split(".")
    depth = 3 if parts[:2] == ["backend", "tensorflow"] else 1
    path = files()[module]
    if path.name == "__init__.py":
        return ".".join(parts[:depth])
    return ".".join(parts[: min(depth, len(parts) - 1)])


def modules():
    """Returns the modules with code outside `rules`."""
    return [
        name
        for name, path in files().items()
        if not name.startswith("rules") and has_code(path)
    ]


def has_code(path):
    """Returns whether a file defines anything but handed-on names."""
    body = ast.parse(path.read_text()).body
    return any(
        not isinstance(node, (ast.Expr, ast.Import, ast.ImportFrom))
        and not _is_all(node)
        for node in body
    )


def _is_all(node):
    targets = getattr(node, "targets", [])
    return any(getattr(target, "id", "") == "__all__" for target in targets)


def clients():
    """Returns the modules that import each module."""
    found = collections.defaultdict(set)
    for module in files():
        for other in imports(module):
            found[other].add(module)
    return found


def single_clients():
    """Returns the modules that exactly one other module imports."""
    found = clients()
    return sorted(m for m in modules() if len(found[m]) == 1)


def circles():
    """Returns the groups of modules that import each other."""
    order, index, low, stack, found = [], {}, {}, [], []

    def visit(module):
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(imports(module)):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            group = []
            while not group or group[-1] != module:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))
        order.append(module)

    for module in files():
        if module not in index:
            visit(module)
    return found


@functools.cache
def _below(module):
    chains = [_below(m) for m in imports(module) if not m.startswith("rules.")]
    return (module, *max(chains, key=len, default=()))


def longest_chain():
    """Returns the longest chain of imports, the importer first."""
    return max(map(_below, modules()), key=len)


def main():
    """Prints the figures."""
    known = modules()
    lines = [len(files()[m].read_text().splitlines()) for m in known]
    print(f"modules with code outside rules: {len(known)}")
    print(f"lines: {sum(lines)}, mean {sum(lines) / len(lines):.0f}, ", end="")
    print(f"largest {max(lines)}")
    alone = single_clients()
    print(f"with one client: {len(alone)}")
    for module in alone:
        (client,) = clients()[module]
        print(f"  {module}  <- {client}")
    print(f"circles: {circles() or 'none'}")
    chain = () if circles() else longest_chain()
    print(f"longest chain: {len(chain)}")
    print("  " + "\n  -> ".join(chain))
    print(f"arrows: {sum(len(imports(m)) for m in known)}")


if __name__ == "__main__":
    main()
