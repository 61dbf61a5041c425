"""Step 3: how many updates the optimizers of a training have made."""

from keras_gradguard.diagnosis.trace import optimizers_of
from keras_gradguard.diagnosis.variable_internals import num_updates


class UpdateCount:
    """Counts the updates of one training.

    Args:
        model: The Keras model that trains.
        optimizers: The optimizers whose updates count, a list that may grow;
            by default those that the model holds.
    """

    def __init__(self, model, optimizers=None):
        self._model = model
        # Those that are hooked are the ones that it holds now.
        self._optimizers = optimizers
        if optimizers is None:
            self._optimizers = optimizers_of(model)
        self._begun = self._counts()

    def now(self):
        """Returns the number of updates made so far, `None` if not known.

        An optimizer that takes no part, as that of a trained model inside,
        does not count.
        """
        counts = self._counts()
        moved = [n for key, n in counts.items() if n != self._begun.get(key)]
        own = getattr(self._model, "optimizer", None)
        first = next(iter(counts.values()), None)
        return max(moved, default=counts.get(id(own), first))

    def _counts(self):
        return {id(o): num_updates(o) for o in self._optimizers}
