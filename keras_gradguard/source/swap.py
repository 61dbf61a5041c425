"""Functions of a file, run for a moment from another text of it."""

import contextlib
import linecache
import os
import tempfile

from keras_gradguard.source.lines import (
    functions_of_file,
    inner_codes,
    lines_in,
)


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
    known, held = functions_of_file(file), {}
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


def _holds(code, line):
    lines = set().union(*map(lines_in, (code, *inner_codes(code))))
    return bool(lines) and min(lines) <= line <= max(lines)


def _codes(module):
    """Key of each function in a compiled text -> its code."""
    return {_key(code): code for code in inner_codes(module)}


def _key(code):
    return (
        code.co_qualname,
        code.co_firstlineno,
        code.co_varnames[: code.co_argcount + code.co_kwonlyargcount],
    )
