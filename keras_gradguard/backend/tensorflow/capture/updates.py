"""What is measured of the updates of one optimizer, in the graph."""

import collections

import numpy as np
import tensorflow as tf

from keras_gradguard.backend.tensorflow.capture.finite_update import (
    FiniteUpdate,
)
from keras_gradguard.backend.tensorflow.capture.movement import (
    MOVEMENT_COLUMNS,
    Movement,
)
from keras_gradguard.backend.tensorflow.capture.scaling import Scaling
from keras_gradguard.backend.tensorflow.capture.statistics import (
    COLUMNS,
    Histogram,
    half_square,
    statistics,
)
from keras_gradguard.backend.tensorflow.internals.functions import (
    is_compiled_here,
)
from keras_gradguard.backend.tensorflow.internals.graphs import (
    guard_variables,
    rarely,
)
from keras_gradguard.backend.tensorflow.internals.variables import numbers_in
from keras_gradguard.model.optimizers import is_overwritten, named_optimizers
from keras_gradguard.records.kinds import LARGEST_ROOT
from keras_gradguard.records.norms import UNMEASURED

_GROUPS = ({"Mul"}, {"Add", "AddV2", "AddN"})
# A longer chain is measured as it is.
_MOST_OPS = 16


def copied_products(gradients, anchor):
    """Returns gradients of the same values that others do not depend on.

    Args:
        gradients: Tensors, `tf.IndexedSlices` or `None`.
        anchor: A tensor of the same graph; as the copies wait for it they
            are not taken for the same ops again.
    """
    if tf.executing_eagerly():
        return gradients
    with tf.control_dependencies([anchor]):
        return [_apart(gradient) for gradient in gradients]


def _apart(gradient):
    if isinstance(gradient, tf.IndexedSlices):
        values = _apart(gradient.values)
        shape = gradient.dense_shape
        return tf.IndexedSlices(values, gradient.indices, shape)
    if not isinstance(gradient, tf.Tensor):
        return gradient
    here = tf.compat.v1.get_default_graph()
    for group in _GROUPS:
        if gradient.graph is here and gradient.op.type in group:
            chain = _chain(gradient.op, group)
            return gradient if chain is None else _copied(gradient.op, chain)
    return gradient


def _chain(op, group):
    """The ops of one group behind an op; `None` if there are too many."""
    found = [op]
    for known in found:
        found += [
            tensor.op
            for tensor in known.inputs
            if tensor.op.type in group and tensor.op not in found
        ]
        if len(found) > _MOST_OPS:
            return None
    return found


def _copied(op, chain):
    inputs = [
        _copied(tensor.op, chain) if tensor.op in chain else tensor
        for tensor in op.inputs
    ]
    if op.type == "Mul":
        return tf.raw_ops.Mul(x=inputs[0], y=inputs[1])
    if op.type == "AddN":
        return tf.raw_ops.AddN(inputs=inputs)
    return tf.raw_ops.AddV2(x=inputs[0], y=inputs[1])


def without_overwritten(values, variables):
    """Returns the values of the variables that are not overwritten.

    Args:
        values: A list, one for each variable.
        variables: The variables.
    """
    pairs = zip(values, variables, strict=True)
    return [value for value, known in pairs if not is_overwritten(known)]


# A float32 tells as many apart.
_MOST_RECORDS = 2.0**24 - 1.0


def _nothing(*_):
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

    Attributes:
        finite: The `FiniteUpdate` that makes its updates where one that
            overflows is undone.
    """

    def __init__(self, optimizer, variables, is_xla=None, has_histograms=False):
        self.optimizer = optimizer
        if is_compiled_here():
            is_xla = True
        self._is_xla = is_xla
        self.variables = tuple(variables)
        self.treatment = Scaling(optimizer)
        self._updates = Movement(self.variables, is_xla is not False)
        self.finite = FiniteUpdate(optimizer, self.variables)
        self._distribution, self._number = None, 0.0
        if has_histograms:
            self._distribution = Histogram(len(self.variables))
        shape = [len(self.variables), len(COLUMNS)]
        width = len(COLUMNS) + len(MOVEMENT_COLUMNS)
        with guard_variables():
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
        self.finite.take()
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
        is_square_kept=False,
    ):
        """Adds the ops that measure `gradients` to the step.

        Args:
            gradients: The gradients as `optimizer.apply` gets them.
            due: Boolean scalar tensor; whether this step is to be recorded.
            is_scaled: Whether the optimizer's loss scale is still in them.
            loss: Scalar tensor; the step is bad too if it is not finite.
            look: Makes further ops for a step that is looked at closely.
            keep: Makes the ops that keep a bad step; called with whether it
                is only suspected, a Boolean scalar tensor.
            is_square_kept: Whether a step is suspected, and kept, whose
                gradient has a square that float32 cannot hold. An optimizer
                that squares it spoils its own state.

        Returns:
            `(squared norm of all gradients, is_bad)`: scalar float32
            tensors, the first one unscaled, the second one 1 if the step is
            suspected, the loss is not finite, or some element is not that is
            no overflow of a loss scale that is still finding its level.
        """
        gradients = [_tensor(gradient) for gradient in gradients]
        one = tf.constant(1.0)
        loss_scale = self.optimizer.scale_loss(one)
        is_one = loss_scale is one
        loss_scale = tf.cast(loss_scale, tf.float32)
        scale = loss_scale if is_scaled else one
        there = [n for n, g in enumerate(gradients) if g is not None]
        halves = [half_square(gradients[n], bool(self._is_xla)) for n in there]
        own = without_overwritten(halves, [self.variables[n] for n in there])
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
            is_suspected = tf.constant(False)
            if is_square_kept:
                most = tf.reduce_max(found[:, 1])
                # A loss scale that finds its level may make it infinite.
                is_large = (most > LARGEST_ROOT) & tf.math.is_finite(most)
                is_suspected = is_large & ~is_bad
            is_kept = is_bad | is_suspected
            rarely(
                is_kept, lambda: self._keep_bad(found, keep, is_suspected), 0
            )
            return tf.cast(is_kept, tf.float32)

        is_due = due | ~tf.math.is_finite(watched)
        return total, rarely(is_due, measure, 0.0)

    def _keep_bad(self, found, keep, is_suspected):
        is_first = tf.equal(self._bad[0, 0], UNMEASURED)
        self._bad.assign(tf.where(is_first, found, self._bad))
        keep(is_suspected)
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

        rarely(due, measure, 0)

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
        found = numbers_in(self._record)
        number = found[-1]
        if number == self._number:
            found = np.full_like(found, UNMEASURED)
        self._number = number
        rows = found[:-1].reshape(len(self.variables), -1)
        return rows[:, : len(COLUMNS)], rows[:, len(COLUMNS) :]

    def histograms(self):
        """Returns `Histogram.read`, `None` where nothing is counted."""
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

    def find(self, optimizer, variables):
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


_MOST_BYTES = 2**20
_FEWEST_RECORDS, _MOST_WAITING = 16, 512


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
        self._room = min(max(room, _FEWEST_RECORDS), _MOST_WAITING)
        shape = [self._room, len(self.variables), width]
        with guard_variables():
            self._rows = tf.Variable(tf.fill(shape, UNMEASURED), False)
            self._steps = tf.Variable(
                tf.zeros([self._room], tf.int64), trainable=False
            )
            # Updates seen, and records among them.
            self._counts = tf.Variable([0, 0], False, dtype=tf.int64)
        self._num_taken = 0

    def before(
        self, gradients, is_scaled=True, loss=None, is_square_kept=False
    ):
        """Measures gradients.

        Args:
            gradients: As `optimizer.apply` gets them.
            is_scaled: Whether the optimizer's loss scale is still in them.
            loss: See `store`; one that is multiplied by a loss scale may be
                infinite, and is not looked at.
            is_square_kept: See `store`.

        Returns:
            `(is_bad, due)`: boolean scalar tensors, whether they are bad,
            and what `after` takes.
        """
        is_on = self._is_on.value()
        due = is_on & tf.equal(self._counts[0] % self._every, 0)
        own = copied_products(gradients, is_on)

        loss = None if self.treatment.is_scaled else loss

        def measure():
            return self.store(
                own, due, is_scaled, loss, is_square_kept=is_square_kept
            )[1]

        is_bad = rarely(is_on, measure, 0.0)
        return is_bad > 0, due

    def after(self, due, now):
        """Measures the update and keeps the record, if one is due.

        Args:
            due: The second value that `before` returned.
            now: Int64 scalar tensor, the updates made before this one.
        """
        self.measure_update(due)
        is_on = self._is_on.value()

        def keep():
            place = self._counts[1] % self._room
            row = self.values()
            self._rows.scatter_update(tf.IndexedSlices(row[None], [place]))
            self._steps.scatter_update(tf.IndexedSlices([now], [place]))
            return tf.constant(0)

        rarely(due, keep, 0)
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
