"""Undoes an update that leaves a NaN or an Inf, in the graph."""

import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.graphs import (
    guard_variables,
)
from keras_gradguard.backend.tensorflow.internals.variables import read


class FiniteUpdate:
    """Makes the updates of one optimizer, and undoes those that overflow.

    The gradient may be finite and the update not: a square in the optimizer,
    the norm that clips it, the learning rate, weight decay or a constraint.

    Args:
        optimizer: The Keras optimizer; it is built when it makes an update.
        variables: The variables that it trains.
    """

    def __init__(self, optimizer, variables):
        self._optimizer, self._variables = optimizer, variables
        # What is checked, and which of it the last update that was undone
        # made NaN or Inf.
        self._checked, self._flags = (), None

    def make(self, is_on, apply):
        """Makes an update.

        Args:
            is_on: Boolean scalar tensor; otherwise nothing is undone.
            apply: Makes it.

        Returns:
            Scalar float32 tensor, 1 if it was undone.
        """
        touched = self._touched()
        before = [read(variable) for variable in touched]
        apply()
        numbers = [n for n, v in enumerate(before) if _has_nan(v.dtype)]
        # The update did not spoil what was NaN or Inf before it.
        spoiled = tf.stack(
            [
                _is_finite(before[n]) & ~_is_finite(read(touched[n]))
                for n in numbers
            ]
        )
        if self._flags is None:
            self._checked = [touched[n] for n in numbers]
            with guard_variables():
                empty = [False] * len(numbers)
                self._flags = tf.Variable(empty, trainable=False)

        def undo():
            for variable, value in zip(touched, before, strict=True):
                variable.assign(value)
            self._flags.assign(spoiled)
            return tf.constant(1.0)

        is_spoiled = tf.reduce_any(spoiled) & is_on
        return tf.cond(is_spoiled, undo, lambda: tf.constant(0.0))

    def _touched(self):
        every = (*self._variables, *self._optimizer.variables)
        return list({id(v): v for v in every}.values())

    def spoiled(self):
        """Returns the variables that are NaN or Inf now, a list."""
        return [
            variable
            for variable in self._touched()
            if _has_nan(tf.as_dtype(variable.dtype))
            and not bool(_is_finite(read(variable)))
        ]

    def take(self):
        """Returns the variables spoiled since the last call, a list."""
        if self._flags is None:
            return []
        flags = self._flags.numpy()
        self._flags.assign([False] * len(flags))
        pairs = zip(self._checked, flags, strict=True)
        return [variable for variable, is_spoiled in pairs if is_spoiled]


def _has_nan(dtype):
    return dtype.is_floating or dtype.is_complex


def _is_finite(value):
    if value.dtype.is_complex:
        value = tf.abs(value)
    return tf.reduce_all(tf.math.is_finite(value))
