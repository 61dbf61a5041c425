"""The clock: a cycle is the beginning of a batch to that of the next."""

import time

import keras


class Cycle(keras.callbacks.Callback):
    """Takes the time of each cycle, in turns of some cycles.

    It must come first in the list of callbacks, so that all the others do
    within a step lies within its cycle. It has no `on_train_batch_end`:
    with one, Keras would no longer run its own callbacks in a thread beside
    the step, and bare `fit` would seem slower than it is.

    Args:
        next_turn: Called with the seconds of the cycles of the last turn, an
            empty list before the first one. It waits for the next turn and
            returns its number of cycles, `None` to end the training.
    """

    def __init__(self, next_turn):
        super().__init__()
        self._next_turn = next_turn
        self._number = 0
        self._seconds = []
        self._begin = None

    def on_train_batch_begin(self, batch, logs=None):
        """Ends a cycle, and begins the next."""
        if self._begin is not None:
            self._seconds.append(time.perf_counter() - self._begin)
        if len(self._seconds) == self._number:
            self._wait()
        self._begin = time.perf_counter()

    def _wait(self):
        seconds, self._seconds = self._seconds, []
        self._number = self._next_turn(seconds)
        if self._number is None:
            self.model.stop_training = True
