"""Python's hooks are put back, in whatever order their blocks end."""

import contextlib
import sys

import pytest

from keras_gradguard.backend.tensorflow.internals.python_hooks import (
    calls_profiled,
    calls_traced,
    no_calls_seen,
)


def called():
    """Something to be seen."""


class Seeing:
    """Notes the names of the functions that are called."""

    def __init__(self):
        self.names = []

    def __call__(self, frame, event, argument):
        if event == "call":
            self.names.append(frame.f_code.co_name)


@pytest.fixture(autouse=True)
def hooks_kept():
    """Coverage has a hook of its own, which is none of these tests'."""
    before = sys.gettrace(), sys.getprofile()
    sys.settrace(None)
    sys.setprofile(None)
    yield
    sys.settrace(before[0])
    sys.setprofile(before[1])


def test_blocks_within_blocks():
    """The inner one alone sees, and then the outer one again."""
    outer, inner = Seeing(), Seeing()
    with calls_traced(outer):
        with calls_traced(inner):
            called()
        assert sys.gettrace() is outer
        assert "called" not in outer.names
        called()
    assert sys.gettrace() is None
    assert 1 == inner.names.count("called") == outer.names.count("called")


def test_an_outer_block_that_ends_first():
    """What it has called may close a look at a step."""
    outer, debugger = contextlib.ExitStack(), Seeing()
    sys.settrace(debugger)
    outer.enter_context(calls_traced(Seeing()))
    with no_calls_seen():
        assert sys.gettrace() is None
        outer.close()
        assert sys.gettrace() is None
    assert sys.gettrace() is debugger


def test_a_block_that_begins_within_and_stays():
    """A look that is opened while another one is closed goes on."""
    later, see = contextlib.ExitStack(), Seeing()
    with no_calls_seen():
        later.enter_context(calls_traced(see))
    assert sys.gettrace() is see
    later.close()
    assert sys.gettrace() is None


def test_debugger_beside():
    """It sees the calls too, and one that comes in later stays."""
    debugger, see, late = Seeing(), Seeing(), Seeing()
    sys.settrace(debugger)
    with calls_traced(see, is_beside=True):
        called()
        sys.settrace(late)
    assert sys.gettrace() is late
    assert "called" in see.names
    assert "called" in debugger.names


def test_profilers():
    """Two of ours see alike; one of the user's is left alone."""
    one, other = Seeing(), Seeing()
    with calls_profiled(one), calls_profiled(other):
        called()
    assert sys.getprofile() is None
    assert "called" in one.names
    assert "called" in other.names
    users, own = Seeing(), Seeing()
    sys.setprofile(users)
    with calls_profiled(own):
        called()
        assert sys.getprofile() is users
    assert [] == own.names
    assert "called" in users.names
