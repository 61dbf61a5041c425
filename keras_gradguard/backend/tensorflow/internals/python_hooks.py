"""Python's own hooks on calls, set for a block and put back after it.

Blocks may end in another order than the one they began in: a look at a step
may be closed by what it has called.
"""

import contextlib
import sys
import threading

_TRACE = (sys.gettrace, sys.settrace)
_PROFILE = (sys.getprofile, sys.setprofile)
_thread = threading.local()


def _blocks(kind):
    """The blocks of this thread that have set one kind of hook."""
    known = vars(_thread).setdefault("blocks", {})
    return known.setdefault(kind, [])


class _Block:
    """A block with a hook of its own."""

    def __init__(self, hook, before):
        self.hook, self.before = hook, before


@contextlib.contextmanager
def _set(kind, hook):
    get, put = kind
    blocks, block = _blocks(kind), _Block(hook, get())
    blocks.append(block)
    put(hook)
    try:
        yield
    finally:
        place = blocks.index(block)
        del blocks[place]
        if place < len(blocks):
            # One that began later goes on, and puts back what was before.
            blocks[place].before = block.before
        elif get() is hook:
            # A debugger may have come in between: then it stays.
            put(block.before)


@contextlib.contextmanager
def calls_traced(see, is_beside=False):
    """Calls a function of `sys.settrace` for this thread's calls in a block.

    Args:
        see: The function.
        is_beside: Whether what was set before, such as a debugger, is to see
            the calls as well; `see` then sees nothing within a call.
    """
    before = sys.gettrace()

    def both(frame, event, argument):
        see(frame, event, argument)
        within = before(frame, event, argument)
        # Coverage takes the place of what has called it.
        if sys.gettrace() is not both:
            sys.settrace(both)
        return within

    with _set(_TRACE, both if is_beside and before is not None else see):
        yield


class _Profile:
    """A profile function of ours, beside another one of ours."""

    def __init__(self, see, before):
        self._see, self._before = see, before

    def __call__(self, frame, event, argument):
        self._see(frame, event, argument)
        if self._before is not None:
            self._before(frame, event, argument)


@contextlib.contextmanager
def calls_profiled(see):
    """Calls a function of `sys.setprofile` for this thread's calls in a block.

    A profiler of the user's is not disturbed: then nothing is called.

    Args:
        see: The function.
    """
    before = sys.getprofile()
    if before is not None and not isinstance(before, _Profile):
        yield
        return
    with _set(_PROFILE, _Profile(see, before)):
        yield


@contextlib.contextmanager
def no_calls_seen():
    """Calls none of these functions for this thread's calls in a block."""
    with _set(_TRACE, None), _set(_PROFILE, None):
        yield
