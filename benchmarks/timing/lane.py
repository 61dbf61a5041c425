"""One long `fit` that stands still until it is its turn."""

import queue
import threading

from benchmarks.timing.cycle import Cycle


class LaneFailed(Exception):
    """The training of a lane has ended in an exception."""


class Lane:
    """Trains one contender in a thread of its own, turn by turn.

    All its turns are one `fit`: the step is traced once, and the start of
    `fit` is not among them. Only the lane whose turn it is does anything.

    Args:
        train: Called once, in the thread, with the callback to put first;
            it makes the model and trains it until the callback ends it.
    """

    def __init__(self, train):
        self._train = train
        self._turns = queue.SimpleQueue()
        self._results = queue.SimpleQueue()
        self._thread = None
        self._has_ended = False

    def take_turn(self, number):
        """Trains for some cycles; returns their seconds.

        Args:
            number: How many.

        Raises:
            LaneFailed: If the training ends in an exception.
        """
        self.begin_turn(number)
        return self.end_turn()

    def begin_turn(self, number):
        """Begins a turn without waiting for its end, see `take_turn`."""
        if self._has_ended:
            raise LaneFailed("the training has ended already")
        self._turns.put(number)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def end_turn(self):
        """Waits for the end of the turn; returns the seconds of its cycles."""
        seconds = self._results.get()
        if isinstance(seconds, BaseException):
            self._has_ended = True
            raise LaneFailed(described(seconds)) from seconds
        return seconds

    def close(self):
        """Ends the training."""
        self._turns.put(None)
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._has_ended = True

    def _run(self):
        try:
            self._train(Cycle(self._next_turn))
            raise RuntimeError("the training ended before it was told to")
        except BaseException as error:
            self._results.put(error)

    def _next_turn(self, seconds):
        if seconds:
            self._results.put(seconds)
        return self._turns.get()


def described(error):
    """Returns the beginning of an exception, in one line.

    Args:
        error: The exception.
    """
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
