"""The lines of a source file, as long as they are those of the code that runs.

A file may be edited, moved or replaced while a training runs. Then a line of
it says nothing of the code that was imported, and another one would be blamed.
"""

import functools
import gc
import linecache
import os
import sys
import time
import types

# From a name of a module to the function behind its decorators.
_DEPTH, _MOST_OBJECTS = 6, 50_000
_OTHERS = (types.ModuleType, types.CodeType, str, bytes, int, float)


def lines_of(file, function=None, line=None):
    """Returns the lines of the source that the code of a file was made of.

    Args:
        file: As a code object has it; `None` for no file.
        function: Name of a function: then only its code is compared.
        line: A line of it.

    Returns:
        A list of lines with their ends; empty if there is no source, or if it
        is not that of the code any more.
    """
    lines = _read(file)
    if not lines or _is_older_than_process(file):
        return lines
    key = file, function, line
    if _is_made_of(key, "".join(lines)):
        _seen[file] = lines
        return lines
    # The code may have been loaded anew since, or the text been refreshed.
    for others in (_seen.get(file), _read_anew(file)):
        if others and others != lines and _is_made_of(key, "".join(others)):
            return others
    return []


def is_changed(file, function=None, line=None):
    """Returns whether there is a source that is not that of the code.

    Args:
        file: See `lines_of`.
        function: See `lines_of`.
        line: See `lines_of`.
    """
    return bool(_read(file)) and not lines_of(file, function, line)


# By file, the lines that were right when they were looked at.
_seen = {}


def _read(file):
    if not file:
        return []
    # A module in a zip file knows its source by its loader.
    known = {} if file in linecache.cache else _globals_of(file)
    return linecache.getlines(file, known)


def _read_anew(file):
    linecache.checkcache(file)
    return _read(file)


def _globals_of(file):
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == file:
            return vars(module)
    return None


def _is_older_than_process(file):
    """Whether a file cannot have changed since this process began.

    A file that is put in the place of another one may have any time of
    change, but not of its entry.
    """
    try:
        found = os.stat(file)
    except OSError:
        # A cell of a notebook; nobody edits what has run.
        entry = linecache.cache.get(file, ())
        return len(entry) > 1 and entry[1] is None and not _is_archived(file)
    # A clock of the file system may lag a little.
    return max(found.st_mtime, found.st_ctime) < _process_start() - 1.0


def _is_archived(file):
    module = _globals_of(file) or {}
    return hasattr(module.get("__loader__"), "archive")


@functools.cache
def _process_start():
    """When this process began, in seconds; 0 where that is not known."""
    try:
        with open("/proc/self/stat", "rb") as stat:
            ticks = int(stat.read().rpartition(b")")[2].split()[19])
        with open("/proc/uptime") as uptime:
            now = float(uptime.read().split()[0])
        age = now - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
    return time.time() - age


def _is_made_of(key, text):
    """Whether the code of a file, or of one function of it, is of a text."""
    if _holds_all(key, text):
        return True
    begun, _ = _live.get(key[0], (None, ()))
    if begun is None or time.monotonic() - begun < _FRESH:
        return False
    # The code may have been loaded anew since.
    del _live[key[0]]
    return _holds_all(key, text)


def _holds_all(key, text):
    file, function, line = key
    codes = [
        code
        for code in _live_codes(file)
        if function is None
        or (code.co_name == function and line in lines_in(code))
    ]
    if not codes:
        return True
    made = _made_of(text, file)
    return made is not None and all(_is_among(code, made) for code in codes)


@functools.lru_cache(maxsize=32)
def _made_of(text, file):
    """What a text makes: code objects by their names, `None` for none."""
    try:
        module = compile(text, file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None
    found = {}
    for code in (module, *inner_codes(module)):
        found.setdefault(_name(code), []).append(code)
    return found


def _name(code):
    return code.co_qualname, code.co_firstlineno


def _is_among(code, made):
    known = made.get(_name(code), ())
    if _is_rewritten(code):
        # By a hook on imports, such as that of pytest: only the places tell.
        return bool(known)
    return any(_are_same(code, other) for other in known)


def _is_rewritten(code):
    """Whether code has names that no source can have."""
    names = (*code.co_names, *code.co_varnames)
    return any("@" in name for name in names)


def _are_same(code, other):
    parts = ("co_code", "co_names", "co_varnames")
    return (
        all(getattr(code, part) == getattr(other, part) for part in parts)
        and _plain(code) == _plain(other)
        and lines_in(code) == lines_in(other)
    )


def _plain(code):
    """The constants of code; those of an inner one are compared with it."""
    return [
        repr(value)
        for value in code.co_consts
        if not isinstance(value, types.CodeType)
    ]


def lines_in(code):
    """Returns the numbers of the lines that code stands on, a set."""
    return {number for _, _, number in code.co_lines() if number}


def inner_codes(code):
    """Yields the code objects inside of one, at any depth."""
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from inner_codes(constant)


# To go through all objects takes a tenth of a second.
_SECONDS, _FRESH, _MOST_FILES = 1.0, 0.2, 100
_live = {}


def _live_codes(file):
    """The code objects of a file that functions and frames hold."""
    begun, codes = _live.get(file, (None, ()))
    now = time.monotonic()
    if begun is None or now - begun > _SECONDS:
        found = [function.__code__ for function in functions_of_file(file)]
        found += _running(file)
        known = {id(c): c for o in found for c in (o, *inner_codes(o))}
        codes = list(known.values())
        if len(_live) >= _MOST_FILES:
            _live.clear()
        _live[file] = time.monotonic(), codes
    return codes


def _running(file):
    """The code of the frames of this thread: a module, a main function."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == file:
            yield frame.f_code
        frame = frame.f_back


def functions_of_file(file):
    """Returns the functions of a file, wherever they are held.

    Args:
        file: As their code objects name it.
    """
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
