"""Functions of a file, run for a moment from another text of it."""

import contextlib
import gc
import linecache
import os
import sys
import tempfile
import types

# From a name of a module to the function behind its decorators.
_DEPTH, _MOST_OBJECTS = 6, 50_000
_OTHERS = (types.ModuleType, types.CodeType, str, bytes, int, float)


class NotSwapped(Exception):
    """The other text does not have the functions that the file has."""


@contextlib.contextmanager
def swapped(file, lines, text, names=()):
    """Gives the functions that hold some lines the code of another text.

    The code of the function objects is exchanged, so that it does not matter
    who holds them: a model, a closure, a decorator. Frames that are running
    keep theirs.

    Args:
        file: The file, as the code objects name it.
        lines: Numbers of lines of it, from 1.
        text: Its text with a change inside of functions that hold the lines.
        names: `(name, value)` pairs that the other text needs and the
            globals of a function may lack.

    Raises:
        NotSwapped: If no function holds one of the lines, or it is not the
            same one in the other text.
    """
    known, held = _functions(file), {}
    for line in lines:
        found = [f for f in known if _holds(f.__code__, line)]
        if not found:
            raise NotSwapped(f"no function holds line {line}")
        held |= {id(function): function for function in found}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as end:
        # AutoGraph and tracebacks read the source where the code says it is.
        path = os.path.join(folder, os.path.basename(file) or "cell.py")
        # A text that stays there is taken for a cell of a notebook.
        end.callback(linecache.cache.pop, path, None)
        with open(path, "w", encoding="utf-8") as other:
            other.write(text)
        made = _codes(compile(text, path, "exec", dont_inherit=True))
        for function in held.values():
            code = function.__code__
            new = made.get(_key(code))
            if new is None or new.co_freevars != code.co_freevars:
                raise NotSwapped(f"{code.co_name} has changed")
            end.callback(setattr, function, "__code__", code)
            for name, value in names:
                if name not in function.__globals__:
                    function.__globals__[name] = value
                    end.callback(function.__globals__.pop, name, None)
            function.__code__ = new
        yield


def _functions(file):
    """The functions of a file, wherever they are held."""
    known = [*gc.get_objects(), *_defined(file)]
    found = {
        id(one): one
        for one in known
        if type(one) is types.FunctionType
        and one.__code__.co_filename == file
        and one.__code__.co_name != "<module>"
    }
    return list(found.values())


def _defined(file):
    """What a module holds: after `gc.freeze` the collector shows nothing.

    Decorated functions are held by closures, partials and the like.
    """
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) != file:
            continue
        found, seen = [list(vars(module).values())], set()
        for _ in range(_DEPTH):
            found = [
                one
                for one in gc.get_referents(*found)
                if id(one) not in seen and not isinstance(one, _OTHERS)
            ]
            seen.update(map(id, found))
            yield from found
            if len(seen) > _MOST_OBJECTS:
                break


def _holds(code, line):
    lines = [number for _, _, number in code.co_lines() if number]
    lines += [
        number
        for inner in _inner(code)
        for _, _, number in inner.co_lines()
        if number
    ]
    return bool(lines) and min(lines) <= line <= max(lines)


def _inner(code):
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from _inner(constant)


def _codes(module):
    """Key of each function in a compiled text -> its code."""
    return {_key(code): code for code in _inner(module)}


def _key(code):
    return (
        code.co_qualname,
        code.co_firstlineno,
        code.co_varnames[: code.co_argcount + code.co_kwonlyargcount],
    )
