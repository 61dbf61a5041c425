"""Functions run from another text of their file for a moment."""

import importlib.util
import linecache
import sys

import pytest

from keras_gradguard.source.swap import NotSwapped, swapped

TEXT = """\
import functools


def decorated(function):
    @functools.wraps(function)
    def inside(x):
        return function(x)

    return inside


@decorated
def outer(x):
    one = [lambda y: y + 1, lambda y: y + 2]
    return sum(f(x) for f in one)


def closure(k):
    def inner(x):
        return x * k

    return inner


class Thing:
    def method(self, x):
        return x + 10


held = closure(3)
"""


@pytest.fixture(name="module")
def _module(tmp_path):
    path = tmp_path / "swapped_module.py"
    path.write_text(TEXT)
    spec = importlib.util.spec_from_file_location("swapped_module", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["swapped_module"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["swapped_module"]


def line_of(text):
    """Number of the line that holds a text."""
    return next(n for n, t in enumerate(TEXT.splitlines(), 1) if text in t)


@pytest.mark.parametrize(
    ("old", "new", "before", "within"),
    [
        ("y + 2", "y + 7", 23, 28),
        ("x * k", "x * k * k", 30, 90),
        ("x + 10", "x + 20", 20, 30),
    ],
)
def test_code_is_exchanged_and_put_back(old, new, before, within, module):
    """Decorated functions, closures that exist, and methods."""

    def value():
        if "y" in old:
            return module.outer(10)
        return module.held(10) if "k" in old else module.Thing().method(10)

    assert before == value()
    other = TEXT.replace(old, new)
    with swapped(module.__file__, [line_of(old)], other):
        assert within == value()
    assert before == value()
    with (
        pytest.raises(ZeroDivisionError),
        swapped(module.__file__, [line_of(old)], other),
    ):
        raise ZeroDivisionError
    assert before == value()


def test_other_text_is_forgotten(module):
    """Nothing that looks for the user's code finds it afterwards."""
    other = TEXT.replace("x + 10", "x / 0")
    known = dict(linecache.cache)
    line = line_of("x + 10")
    with swapped(module.__file__, [line], other):
        path = module.Thing.method.__code__.co_filename
        assert "x / 0" in linecache.getlines(path)[line - 1]
        assert path not in known
    assert path not in linecache.cache


def test_names_are_lent(module):
    """A module that the other text needs is there, and gone again."""
    other = TEXT.replace("x + 10", "lent(x)")
    line = line_of("x + 10")
    with swapped(module.__file__, [line], other, (("lent", abs),)):
        assert 4 == module.Thing().method(-4)
    assert not hasattr(module, "lent")


def test_what_cannot_be_exchanged(module):
    """A line of no function, and one whose function is gone or other."""
    with (
        pytest.raises(NotSwapped),
        swapped(module.__file__, [line_of("held =")], TEXT),
    ):
        pass
    line = line_of("x * k")
    for other in ("", TEXT.replace("x * k", "x * 2")):
        with (
            pytest.raises(NotSwapped),
            swapped(module.__file__, [line], other),
        ):
            pass
    assert 30 == module.held(10)
