"""Step 2 of 5: the captures of all the updates that a step makes."""

import collections

import tensorflow as tf

from keras_gradguard.diagnosis.trace import named_optimizers
from keras_gradguard.optimizer_capture import OptimizerCapture

# An eager step may make ever other updates; what it made last is kept.
_MOST = 64


class Captures:
    """Holds the `OptimizerCapture` of each update, the same in each step.

    Args:
        model: The Keras model.
        is_xla: Whether XLA compiles its steps, `None` if nobody knows.
        has_histograms: Whether the elements of each gradient are counted.
    """

    def __init__(self, model, is_xla, has_histograms):
        self._model = model
        self._is_xla = is_xla
        self._has_histograms = has_histograms
        self._known, self._names = {}, {}
        self._calls = collections.Counter()

    def __iter__(self):
        """Goes through the captures, in the order of the first updates."""
        return iter(self._known.values())

    def reset(self):
        """Makes all as it was before the first step."""
        for capture in self:
            capture.reset()

    def begin(self):
        """Begins a step."""
        self._calls.clear()

    def of(self, optimizer, variables):
        """Returns the capture of the next update of a step.

        Args:
            optimizer: The optimizer that makes it.
            variables: Its variables.
        """
        self._calls[id(optimizer)] += 1
        number = self._calls[id(optimizer)]
        key = (id(optimizer), tuple(map(id, variables)), number)
        if key not in self._known:
            self._known[key] = OptimizerCapture(
                optimizer, variables, self._is_xla, self._has_histograms
            )
            known = named_optimizers(self._model)
            name = next(name for name, held in known if held is optimizer)
            self._names[key] = f"{name}#{number}" if number > 1 else name
            if tf.executing_eagerly() and len(self._known) > _MOST:
                first = next(iter(self._known))
                del self._known[first], self._names[first]
        return self._known[key]

    def named(self):
        """Returns the name and the capture of each update of a step."""
        return [(self._names[key], c) for key, c in self._known.items()]

    def read(self):
        """Returns the last record, update by update, to its first reader.

        Returns:
            A list of `(variables, statistics, updates, name)`, see
            `OptimizerCapture.read_record`, `VariableHealth.optimizer`.
        """
        return [
            (c.variables, *c.read_record(), name) for name, c in self.named()
        ]

    def histograms(self):
        """Returns `OptimizerCapture.histograms` of each update of `read`."""
        return [capture.histograms() for capture in self]
