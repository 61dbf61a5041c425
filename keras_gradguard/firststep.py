"""Step 1: when the first step of a custom loop is over."""


class FirstStep:
    """Follows updates until a step must be done.

    One update does for a loop with one optimizer; with several, a step is
    over once each variable has been trained, or an optimizer comes again.

    Args:
        model: The Keras model.
    """

    def __init__(self, model):
        self._model = model
        self._begin()
        self._is_running_out = False

    def _begin(self):
        self._trained, self._optimizers = set(), set()
        self._num_updates, self._num_known = 0, 0

    def begin_with_the_next(self):
        """Begins anew, with the step after the one that runs."""
        self._is_running_out = True

    def see_update(self, optimizer, variables):
        """Takes note of an update; returns whether the step is over.

        Args:
            optimizer: The optimizer that made it.
            variables: The model's variables among those it trains.
        """
        if self._is_running_out:
            self._is_running_out = False
            self._begin()
            return False
        self._num_updates += 1
        self._trained |= set(map(id, variables))
        is_again = id(optimizer) in self._optimizers
        self._optimizers.add(id(optimizer))
        return is_again or self._is_complete()

    def see_function(self):
        """Takes note that a compiled function has returned.

        Returns:
            Whether the step is over: all is trained, or the function has
            not been traced again.
        """
        is_traced = self._num_updates > self._num_known
        self._num_known = self._num_updates
        return self._is_complete() or (
            bool(self._num_updates) and not is_traced
        )

    def _is_complete(self):
        everything = set(map(id, self._model.trainable_variables))
        return everything <= self._trained
