"""Step 1: which hooked training step runs in this thread, if any."""

import threading

_thread = threading.local()


def running_hook():
    """Returns the `Hook` whose step runs in this thread, or `None`."""
    stack = getattr(_thread, "stack", None)
    return stack[-1] if stack else None


class Running:
    """Makes a hook the running one while the block runs.

    Args:
        hook: The `Hook`.
    """

    def __init__(self, hook):
        self._hook = hook

    def __enter__(self):
        """Notes it."""
        if not hasattr(_thread, "stack"):
            _thread.stack = []
        _thread.stack.append(self._hook)

    def __exit__(self, kind, error, traceback):
        """Takes the note back."""
        _thread.stack.pop()
