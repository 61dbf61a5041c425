"""Steps 1 and 4: `tf.function`s that a user's own step calls.

Such a function keeps its traces for good. One that was made while an
optimizer is hooked, or makes no update, must never run in a step that is not.
"""

import contextlib
import sys
import threading

from keras_gradguard.diagnosis import function_internals


class Functions:
    """Gives `tf.function`s traces of their own while a block runs.

    A function is known once it was called in a block that watches. It gets
    back what it had as the block ends, and its own traces in the next block.
    They live as long as this object: graphs that call them lead there.
    """

    def __init__(self):
        self._known, self._old = {}, []
        self._num_blocks = 0
        self._lock = threading.Lock()

    def __len__(self):
        return len(self._known)

    def forget(self, is_called=True):
        """Begins with no traces in the next block.

        Args:
            is_called: Whether graphs that stay call the functions.
        """
        if not self._num_blocks:
            if is_called:
                self._old.append(self._known)
            self._known = {}

    @contextlib.contextmanager
    def apart(self, is_watching=True):
        """Gives the functions that are known traces of their own.

        Args:
            is_watching: Whether those that are called get to be known.
        """
        before = sys.gettrace()
        self._change(1)
        see = self._watching(before) if is_watching else None
        try:
            if is_watching:
                sys.settrace(see)
            yield
        finally:
            # A debugger may have come in between.
            if is_watching and sys.gettrace() is see:
                sys.settrace(before)
            self._change(-1)

    def _change(self, number):
        """Exchanges the traces as the first block begins, the last ends."""
        with self._lock:
            has_been = self._num_blocks > 0
            self._num_blocks += number
            if has_been != (self._num_blocks > 0):
                for key, known in self._known.items():
                    self._known[key] = _exchanged(*known)

    def _watching(self, before):
        def see(frame, event, given):
            if event == "call" and frame.f_code in function_internals.ENTRIES:
                self.meet(frame)
            if before is None:
                return None
            within = before(frame, event, given)
            # Coverage takes the place of what has called it.
            if sys.gettrace() is not see:
                sys.settrace(see)
            return within

        return see

    def meet(self, frame):
        """Takes in the call of a function, which it is about to begin.

        Args:
            frame: Its frame; the code is one of `ENTRIES`.
        """
        function = frame.f_locals["self"]
        if id(function) not in self._known:
            traces = function_internals.without_traces(function)
            self._known[id(function)] = _exchanged(function, traces)

    def are_known(self, functions):
        """Returns whether some functions have traces of their own here."""
        return all(id(function) in self._known for function in functions)


def _exchanged(function, traces):
    return function, function_internals.exchanged(function, traces)
