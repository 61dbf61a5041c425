"""Takes back an update that leaves a NaN or an Inf, in the graph."""

import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.graphs import (
    guard_variables,
)
from keras_gradguard.backend.tensorflow.internals.variables import read


class FiniteUpdates:
    """Makes updates, and takes back those that make something not finite.

    The gradient may be finite and the update not: a square in the optimizer,
    the norm that clips it, the learning rate, weight decay or a constraint.
    """

    def __init__(self):
        # Of each optimizer and its variables: what is looked at, and which
        # of it the last update that was taken back has spoiled.
        self._spoiled = {}

    def make(self, optimizer, variables, is_on, apply):
        """Makes an update.

        Args:
            optimizer: The Keras optimizer that makes it; it is built.
            variables: The variables that it trains.
            is_on: Boolean scalar tensor; otherwise nothing is taken back.
            apply: Makes it.

        Returns:
            Scalar float32 tensor, 1 if it was taken back.
        """
        touched = {id(v): v for v in (*variables, *optimizer.variables)}
        touched = list(touched.values())
        before = [read(variable) for variable in touched]
        apply()
        floats = [
            number
            for number, value in enumerate(before)
            if value.dtype.is_floating or value.dtype.is_complex
        ]
        # What was not finite before, others have spoiled.
        spoiled = tf.stack(
            [
                _is_finite(before[n]) & ~_is_finite(read(touched[n]))
                for n in floats
            ]
        )
        key = (id(optimizer), tuple(map(id, variables)))
        if key not in self._spoiled:
            with guard_variables():
                flags = tf.Variable([False] * len(floats), trainable=False)
            self._spoiled[key] = [touched[n] for n in floats], flags
        _, flags = self._spoiled[key]

        def take_back():
            for variable, value in zip(touched, before, strict=True):
                variable.assign(value)
            flags.assign(spoiled)
            return tf.constant(1.0)

        is_spoiled = tf.reduce_any(spoiled) & is_on
        return tf.cond(is_spoiled, take_back, lambda: tf.constant(0.0))

    def take(self):
        """Returns the variables spoiled since the last call, a list."""
        found = []
        for variables, flags in self._spoiled.values():
            is_spoiled = flags.numpy()
            if is_spoiled.any():
                pairs = zip(variables, is_spoiled, strict=True)
                found += [variable for variable, known in pairs if known]
                flags.assign([False] * len(variables))
        return found

    def reset(self):
        """Makes all as it was before the first step."""
        self.take()


def _is_finite(value):
    if value.dtype.is_complex:
        value = tf.abs(value)
    return tf.reduce_all(tf.math.is_finite(value))
