"""Step 2 of 5: what is measured of one optimizer's steps, in the graph."""

import numpy as np
import tensorflow as tf

from keras_gradguard.capture import COLUMNS, UNMEASURED, half_square
from keras_gradguard.diagnosis import (
    function_internals,
    internals,
    variable_internals,
)
from keras_gradguard.distribution import Distribution
from keras_gradguard.statistics import statistics
from keras_gradguard.steered import steered
from keras_gradguard.treatment import Treatment
from keras_gradguard.update import COLUMNS as UPDATE_COLUMNS
from keras_gradguard.update import UpdateCapture

# A float32 tells as many apart.
_MOST_RECORDS = 2.0**24 - 1.0


def _nothing():
    """Adds no ops."""


def _tensor(gradient):
    """A gradient, which an eager step may have as an array."""
    if gradient is None or isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.convert_to_tensor(gradient)


class OptimizerCapture:
    """Holds the statistics of one optimizer's steps, outside the graph.

    Args:
        optimizer: The Keras optimizer that gets the gradients.
        variables: The variables it trains, in the order of the gradients.
        is_xla: Whether XLA compiles its steps, `None` if nobody knows.
        has_histograms: Whether the elements of each gradient are counted.
    """

    def __init__(self, optimizer, variables, is_xla=None, has_histograms=False):
        self.optimizer = optimizer
        if function_internals.is_compiled_here():
            is_xla = True
        self._is_xla = is_xla
        self.variables = tuple(variables)
        self.treatment = Treatment(optimizer)
        self._updates = UpdateCapture(self.variables, is_xla is not False)
        self._distribution, self._number = None, 0.0
        if has_histograms:
            self._distribution = Distribution(len(self.variables))
        shape = [len(self.variables), len(COLUMNS)]
        width = len(COLUMNS) + len(UPDATE_COLUMNS)
        with internals.room():
            empty = tf.fill(shape, UNMEASURED)
            self._statistics = tf.Variable(empty, trainable=False)
            # Those of the first bad step, until they have been read.
            self._bad = tf.Variable(empty, trainable=False)
            # All of the last record and how many there were, to be read at
            # once.
            self._record = tf.Variable(
                tf.zeros([len(self.variables) * width + 1]), trainable=False
            )

    def reset(self):
        """Makes all as it was before the first step."""
        empty = tf.fill(self._statistics.shape, UNMEASURED)
        self._statistics.assign(empty)
        self._bad.assign(empty)
        self._record.assign(tf.zeros(self._record.shape))
        self._number = 0.0
        self.treatment.reset()
        self._updates.reset()
        if self._distribution is not None:
            self._distribution.reset()

    def store(
        self,
        gradients,
        due,
        is_scaled=True,
        loss=None,
        look=_nothing,
        keep=_nothing,
    ):
        """Adds the ops that measure `gradients` to the step.

        Args:
            gradients: The gradients as `optimizer.apply` gets them.
            due: Boolean scalar tensor; whether this step is to be recorded.
            is_scaled: Whether the optimizer's loss scale is still in them.
            loss: Scalar tensor; the step is bad too if it is not finite.
            look: Makes further ops for a step that is looked at closely.
            keep: Makes the ops that keep a bad step.

        Returns:
            `(squared norm of all gradients, is_bad)`: scalar float32
            tensors, the first one unscaled, the second one 1 if the loss is
            not finite, or some element is not that is no overflow of a loss
            scale that is still finding its level.
        """
        gradients = [_tensor(gradient) for gradient in gradients]
        one = tf.constant(1.0)
        loss_scale = self.optimizer.scale_loss(one)
        is_one = loss_scale is one
        loss_scale = tf.cast(loss_scale, tf.float32)
        scale = loss_scale if is_scaled else one
        there = [n for n, g in enumerate(gradients) if g is not None]
        halves = [half_square(gradients[n], bool(self._is_xla)) for n in there]
        own = steered(halves, [self.variables[n] for n in there])
        half = tf.add_n(own) if own else tf.constant(0.0)
        total = 2.0 * half if is_one else 2.0 * half / tf.square(scale)
        self.treatment.store(loss_scale, scale, own, is_scaled)
        if len(own) < len(halves):
            half = tf.add_n(halves)
        # A square may leave the range of float32, so this is but a suspicion.
        watched = half if loss is None else half + tf.cast(loss, tf.float32)

        def measure():
            look()
            self._updates.before(gradients)
            found = statistics(
                gradients, self.variables, scale, halves, self._is_xla
            )
            self._statistics.assign(found)
            if self._distribution is not None:
                self._distribution.store(gradients, scale)
            if is_scaled:
                self.treatment.store_largest(found[:, 1])
            is_bad = tf.reduce_any(found[:, -1] > 0)
            if self.treatment.is_scaled:
                is_bad &= scale <= 1.0
            if loss is not None:
                is_bad |= ~tf.math.is_finite(loss)
            internals.rarely(is_bad, lambda: self._keep_bad(found, keep), 0)
            return tf.cast(is_bad, tf.float32)

        is_due = due | ~tf.math.is_finite(watched)
        return total, internals.rarely(is_due, measure, 0.0)

    def _keep_bad(self, found, keep):
        is_first = tf.equal(self._bad[0, 0], UNMEASURED)
        self._bad.assign(tf.where(is_first, found, self._bad))
        keep()
        return tf.constant(0)

    def measure_update(self, due, is_kept=False):
        """Adds the ops that measure the update that was made.

        Args:
            due: Boolean scalar tensor; whether this step is to be recorded.
            is_kept: Whether the record is kept, for `read_record`.
        """

        def measure():
            self._updates.after()
            if is_kept:
                number = tf.math.mod(self._record[-1:], _MOST_RECORDS) + 1.0
                values = tf.reshape(self.values(), [-1])
                self._record.assign(tf.concat([values, number], axis=0))
            return tf.constant(0)

        internals.rarely(due, measure, 0)

    def values(self):
        """Returns the statistics and what was found of the update, a tensor.

        Its shape is `[len(variables), len(COLUMNS) + len(UPDATE_COLUMNS)]`.
        """
        parts = [self._statistics.value(), self._updates.value()]
        return tf.concat(parts, axis=1)

    def read(self):
        """Returns the last statistics: `[len(variables), len(COLUMNS)]`."""
        return self._statistics.numpy()

    def read_record(self):
        """Returns the last record as `(statistics, updates)`, two arrays.

        `UNMEASURED` throughout if there was none since the last call: the
        step that was to be recorded has not made this update.
        """
        found = variable_internals.numbers_in(self._record)
        number = found[-1]
        if number == self._number:
            found = np.full_like(found, UNMEASURED)
        self._number = number
        rows = found[:-1].reshape(len(self.variables), -1)
        return rows[:, : len(COLUMNS)], rows[:, len(COLUMNS) :]

    def histograms(self):
        """Returns `Distribution.read`, `None` where nothing is counted."""
        known = self._distribution
        return None if known is None else known.read()

    def take_bad(self):
        """Returns the statistics of the first bad step since the last call.

        Returns:
            As `read`; `UNMEASURED` throughout where there was none.
        """
        found = self._bad.numpy()
        self._bad.assign(tf.fill(found.shape, UNMEASURED))
        return found
