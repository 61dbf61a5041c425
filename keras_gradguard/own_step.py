"""Step 1 of 5: a training step of the user's own, with its `tf.function`s."""

import tensorflow as tf

from keras_gradguard.diagnosis import function_internals
from keras_gradguard.diagnosis.functions import Functions

# Watching slows Python down, and eager steps are many.
_NUM_WATCHED = 3
# More of them are made anew in each step.
_MOST_FUNCTIONS = 100


class OwnStep:
    """Runs a step whose functions keep nothing of the guard.

    Args:
        step: The `train_step`.
        is_due: Returns whether the step that runs is recorded.
    """

    def __init__(self, step, is_due):
        self._step = step
        self._is_due = is_due
        self._functions = Functions()
        self._num_eager, self._is_watching = 0, True

    def run(self, data):
        """Runs the step on a batch."""
        if tf.executing_eagerly():
            self._num_eager += 1
            is_early = self._num_eager <= _NUM_WATCHED
            self._is_watching = is_early or self._is_due()
            if len(self._functions) > _MOST_FUNCTIONS:
                self._functions.forget(is_called=False)
        else:
            # A trace may lead to tensors of the graph that it was made for.
            self._functions.forget()
            self._is_watching = True
        with self._functions.apart(self._is_watching):
            return self._step(data)

    def is_apart(self):
        """Returns whether ops that are added here are gone after the step.

        They are not in a function that is called for the first time while
        nobody watches.
        """
        if self._is_watching or tf.executing_eagerly():
            return True
        entered = function_internals.functions_entered(OwnStep.run.__code__)
        return self._functions.are_known(entered)
