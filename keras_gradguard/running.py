"""Step 1: which hooked training step runs in this thread, if any."""

import contextlib
import threading

_thread = threading.local()


def running_hook():
    """Returns the `Hook` whose step runs in this thread, or `None`."""
    stack = getattr(_thread, "stack", None)
    return stack[-1] if stack else None


@contextlib.contextmanager
def running(hook):
    """Makes a hook the running one while the block runs.

    Args:
        hook: The `Hook`.
    """
    _thread.stack = [*getattr(_thread, "stack", ()), hook]
    try:
        yield
    finally:
        _thread.stack.pop()
