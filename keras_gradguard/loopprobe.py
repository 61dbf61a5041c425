"""Step 2 of 5: what `watch` adds to the updates of a custom loop.

A compiled step runs without Python, so that the records wait in a variable
until Python comes by.
"""

import collections

import numpy as np
import tensorflow as tf

from keras_gradguard.apart import apart
from keras_gradguard.capture import COLUMNS, UNMEASURED
from keras_gradguard.diagnosis import internals
from keras_gradguard.latch import Latch
from keras_gradguard.optimizer_capture import OptimizerCapture

_MOST_BYTES = 2**20
_FEWEST_RECORDS, _MOST_RECORDS = 16, 512


class LoopCapture(OptimizerCapture):
    """Measures one optimizer's updates and keeps the records of some.

    Args:
        optimizer: The Keras optimizer.
        variables: The variables it trains, in the order of the gradients.
        every: Updates between two records; the first one is recorded.
        is_on: Boolean variable; nothing runs while it is false.
    """

    def __init__(self, optimizer, variables, every, is_on):
        super().__init__(optimizer, variables)
        self._every, self._is_on = every, is_on
        # Columns: the statistics, then the two of the update.
        width = len(COLUMNS) + 2
        room = _MOST_BYTES // (4 * width * max(1, len(self.variables)))
        self._room = min(max(room, _FEWEST_RECORDS), _MOST_RECORDS)
        shape = [self._room, len(self.variables), width]
        with internals.room():
            self._rows = tf.Variable(tf.fill(shape, UNMEASURED), False)
            self._steps = tf.Variable(
                tf.zeros([self._room], tf.int64), trainable=False
            )
            # Updates seen, and records among them.
            self._counts = tf.Variable([0, 0], False, dtype=tf.int64)
        self._num_taken = 0

    def before(self, gradients, is_scaled=True):
        """Measures gradients.

        Args:
            gradients: As `optimizer.apply` gets them.
            is_scaled: Whether the optimizer's loss scale is still in them.

        Returns:
            `(is_bad, due)`: boolean scalar tensors, whether they are bad,
            and what `after` takes.
        """
        is_on = self._is_on.value()
        due = is_on & tf.equal(self._counts[0] % self._every, 0)
        own = apart(gradients, is_on)

        def measure():
            return self.store(own, due, is_scaled)[1]

        is_bad = internals.rarely(is_on, measure, 0.0)
        return is_bad > 0, due

    def after(self, due, uncounted=0):
        """Measures the update and keeps the record, if one is due.

        Args:
            due: The second value that `before` returned.
            uncounted: 1 if the optimizer has not counted the update yet.
        """
        self.measure_update(due)
        is_on = self._is_on.value()

        def keep():
            place = self._counts[1] % self._room
            row = self.values()
            self._rows.scatter_update(tf.IndexedSlices(row[None], [place]))
            step = tf.cast(self.optimizer.iterations, tf.int64) + uncounted
            self._steps.scatter_update(tf.IndexedSlices([step], [place]))
            return tf.constant(0)

        internals.rarely(due, keep, 0)
        seen = tf.stack([is_on, due])
        self._counts.assign_add(tf.cast(seen, tf.int64))

    @property
    def num_steps(self):
        """How many updates were seen, an int."""
        return int(self._counts.numpy()[0])

    def take(self):
        """Returns the records since the last call, the oldest first.

        Returns:
            `(step, statistics, updates)` of each: an int and the arrays
            `[len(variables), len(COLUMNS)]` and `[len(variables), 2]`.
        """
        count = int(self._counts.numpy()[1])
        first = max(self._num_taken, count - self._room)
        self._num_taken = count
        if first == count:
            return []
        rows, steps = self._rows.numpy(), self._steps.numpy()
        places = np.arange(first, count) % self._room
        return [
            (int(steps[n]), *np.split(rows[n], [len(COLUMNS)], axis=1))
            for n in places
        ]


class LoopProbe:
    """Measures the updates of one model in a custom loop.

    Args:
        every: Updates between two records.
        withhold: As for `Probe`.

    Attributes:
        latch: The `Latch` of the first bad update.
    """

    def __init__(self, every, withhold=None):
        self._captures = {}
        self.withhold = withhold
        self._every = every
        with internals.room():
            self._is_on = tf.Variable(True, trainable=False)
        self.latch = Latch()

    @property
    def captures(self):
        """The `LoopCapture` of each optimizer and its variables."""
        return list(self._captures.values())

    def before_apply(self, optimizer, variables, gradients, is_scaled=True):
        """Measures gradients; returns what the other two methods take.

        Args:
            optimizer: The optimizer that gets them.
            variables: The variables that they belong to.
            gradients: The gradients.
            is_scaled: Whether the optimizer's loss scale is still in them.
        """
        key = (id(optimizer), tuple(map(id, variables)))
        if key not in self._captures:
            self._captures[key] = LoopCapture(
                optimizer, variables, self._every, self._is_on
            )
        capture = self._captures[key]
        is_bad, known = capture.before(gradients, is_scaled)
        held = is_bad
        if self.withhold == "after":
            held = is_bad | (self._is_on.value() & self.latch.is_set())
        self.latch.mark(is_bad, tf.cast(optimizer.iterations, tf.int64))
        return capture, held, known

    def apply(self, known, apply):
        """Makes the update, or leaves it out.

        Args:
            known: What `before_apply` returned.
            apply: Makes it; its optimizer is built.
        """
        if self.withhold is None:
            return apply()

        def make():
            apply()
            return tf.constant(0)

        tf.cond(known[1], lambda: tf.constant(0), make)
        return None

    def after_apply(self, known, uncounted=0):
        """Measures the update and keeps the record, see `LoopCapture.after`."""
        capture, _, measured = known
        capture.after(measured, uncounted)

    def named_captures(self):
        """Returns the name and the `LoopCapture` of each optimizer."""
        count, found = collections.Counter(), []
        for capture in self.captures:
            name = capture.optimizer.name
            count[name] += 1
            number = f"#{count[name]}" if count[name] > 1 else ""
            found.append((name + number, capture))
        return found

    def take(self):
        """Returns the records since the last call, the oldest first.

        Returns:
            `(step, measured)` of each; `measured` as `Logbook.measure` has
            it, of all optimizers whose record has that step.
        """
        found = {}
        for name, capture in self.named_captures():
            for step, statistics, updates in capture.take():
                row = (capture.variables, statistics, updates, name)
                found.setdefault(step, []).append(row)
        return sorted(found.items(), key=lambda item: item[0])

    def take_bad(self):
        """Returns `(variables, statistics)` of the first bad step."""
        return [
            (capture.variables, capture.take_bad()) for capture in self.captures
        ]

    def switch_off(self):
        """Lets compiled steps run on without being measured."""
        self._is_on.assign(False)
