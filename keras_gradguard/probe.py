"""Step 2 of 5: all that the guard adds to the graph of a training step."""

import collections

import tensorflow as tf

from keras_gradguard.apart import apart
from keras_gradguard.batch import flat
from keras_gradguard.capture import Capture
from keras_gradguard.diagnosis import internals
from keras_gradguard.diagnosis.trace import named_optimizers
from keras_gradguard.epoch_norm import EpochNorm
from keras_gradguard.latch import Latch
from keras_gradguard.share import Share
from keras_gradguard.snapshot import Snapshot

# Key of the guard's own outputs among a step's logs, on their way out.
CHANNEL = "gradguard"
NORM = "grad_norm"


class Probe:
    """Measures the steps of one model, and keeps the first bad one.

    Args:
        model: A compiled Keras model.
        num_replicas: How many replicas train it; where there are several,
            the first one measures, and puts nothing among the logs.
        withhold: `None` to make every update, `"bad"` to leave out those of
            gradients that are not finite, `"after"` to leave out all that
            follow such a one as well.

    Attributes:
        captures: The `Capture` of each update that a step makes.
        is_due: Whether the next step is to be recorded.
        withhold: As given.
        latch: The `Latch` of the first bad step.
        epoch_norm: The `EpochNorm`.
    """

    def __init__(self, model, num_replicas=1, withhold=None):
        self.captures = {}
        self._model = model
        self._names, self._calls = {}, collections.Counter()
        self.withhold = withhold
        self._batch, self._before, self._num_seen = [], [], 0
        self._has_loss, self._is_measuring = False, False
        self._now = self._taken = None
        is_xla = bool(model.jit_compile) and not model.run_eagerly
        self._share = Share() if num_replicas > 1 else None
        is_batch_kept = num_replicas > 1 or model.steps_per_execution > 1
        self._snapshot = Snapshot(model, is_xla, is_batch_kept)
        self.is_due = False
        with internals.room():
            self._due = tf.Variable(False, trainable=False)
            # Of this step: the squared norm, and 1 if it is bad.
            self._step = tf.Variable([0.0, 0.0], trainable=False)
        self.latch, self.epoch_norm = Latch(), EpochNorm()

    def expect(self, is_due):
        """Says whether the next call of the train function is recorded."""
        self._taken = None
        for capture in self.captures.values() if is_due else ():
            capture.clear()
        if is_due != self.is_due:
            self.is_due = is_due
            self._due.assign(is_due)

    def begin(self, data):
        """Adds what comes before a step.

        Args:
            data: The batch as `train_step` gets it.
        """
        self._batch = flat(data)
        self._num_seen = 0
        self._calls.clear()
        self._has_loss = False
        self._step.assign([0.0, 0.0])
        self._snapshot.begin()
        if self._share is not None:
            self._share.keep(self._due, self._batch)
        if self.withhold is not None:
            kept = [
                *self._model.non_trainable_weights,
                *self._model.metrics_variables,
            ]
            self._before = [(v, tf.identity(v)) for v in kept]

    def see_loss(self, loss):
        """Marks the step as bad if its loss is NaN or Inf.

        Args:
            loss: What the step gives `optimizer.scale_loss`.
        """
        if self._is_measuring or not tf.is_tensor(loss):
            return
        self._has_loss = True
        is_bad = ~tf.reduce_all(tf.math.is_finite(loss))
        self._step.assign_add(tf.stack([0.0, tf.cast(is_bad, tf.float32)]))

    def before_apply(self, optimizer, variables, gradients, is_scaled=True):
        """Measures gradients; returns what the other two methods take.

        Args:
            optimizer: The optimizer that gets them.
            variables: The variables that they belong to.
            gradients: The gradients.
            is_scaled: Whether the optimizer's loss scale is still in them.
        """
        capture = self._capture(optimizer, variables)
        if not self._num_seen:
            self._now = tf.identity(optimizer.iterations)
        self._num_seen += 1
        self._is_measuring = True
        known = apart(gradients, self._due.read_value())
        square, is_bad = capture.store(known, self._due, is_scaled)
        self._is_measuring = False
        self._step.assign_add(tf.stack([square, tf.cast(is_bad, tf.float32)]))
        is_bad = self._step[1] > 0
        held = is_bad
        if self.withhold == "after":
            held = is_bad | self.latch.is_set()
        self._mark(is_bad)
        self._snapshot.keep(is_bad, self._batch)
        return capture, held, capture.updates.before(gradients, self._due)

    def _capture(self, optimizer, variables):
        """Returns the `Capture` of this update, the same one in each step."""
        self._calls[id(optimizer)] += 1
        number = self._calls[id(optimizer)]
        key = (id(optimizer), tuple(map(id, variables)), number)
        if key not in self.captures:
            self.captures[key] = Capture(optimizer, variables)
            known = named_optimizers(self._model)
            name = next(name for name, held in known if held is optimizer)
            self._names[key] = f"{name}#{number}" if number > 1 else name
        return self.captures[key]

    def apply(self, known, apply):
        """Makes the update, or leaves it out.

        Args:
            known: What `before_apply` returned.
            apply: Makes it.
        """
        capture, held, _ = known
        if self.withhold is None:
            return apply()
        if not capture.optimizer.built:
            capture.optimizer.build(capture.variables)

        def make():
            apply()
            return tf.constant(0)

        tf.cond(held, lambda: tf.constant(0), make)
        return None

    def after_apply(self, known):
        """Measures how far the update has moved the weights."""
        capture, _, updates = known
        capture.updates.after(updates)

    def end(self, logs):
        """Adds what comes after a step; returns the logs and more.

        Args:
            logs: What `train_step` returned.
        """
        if not isinstance(logs, (dict, type(None))):
            return logs
        logs = dict(logs or {})
        is_bad = self._step[1] > 0
        if self.withhold is not None:
            logs = self._restored(logs, is_bad)
        loss = logs.get("loss")
        is_known = self._has_loss or not tf.is_tensor(loss)
        if not is_known and loss.dtype.is_floating:
            self._mark(~tf.math.is_finite(loss) & ~is_bad)
        norm = self._add_norm(is_bad) if self._num_seen else None
        if self._share is not None:
            return logs
        if norm is not None and NORM not in logs:
            logs[NORM] = norm
        logs[CHANNEL] = (self.latch.value(), tuple(self._batch))
        return logs

    def _mark(self, is_bad):
        """Latches a bad step; its weights and its batch are kept."""
        optimizer = getattr(self._model, "optimizer", None)
        now = self._now
        if not self._num_seen:
            now = 0 if optimizer is None else optimizer.iterations
        self.latch.mark(is_bad, tf.cast(now, tf.int64))

    def share(self):
        """Returns the batch of the replica that measures, flat, or `None`.

        That of the last record; kept only where several replicas train.
        """
        return None if self._share is None else self._share.read()

    def _add_norm(self, is_bad):
        is_left_out = False if self.withhold is None else is_bad
        return self.epoch_norm.add(tf.sqrt(self._step[0]), is_left_out)

    def _restored(self, logs, is_bad):
        """Leaves statistics and metrics as they were before a bad step."""

        def restore():
            for variable, value in self._before:
                variable.assign(value)
            return tf.constant(0)

        tf.cond(is_bad, restore, lambda: tf.constant(0))
        now = self._model.get_metrics_result()
        return now if now.keys() == logs.keys() else logs

    def read(self):
        """Returns what was measured last, update by update.

        Returns:
            A list of `(variables, statistics, updates, name)`, see
            `Capture.read`, `UpdateCapture.read`, `VariableHealth.optimizer`.
        """
        return [
            (c.variables, c.read(), c.updates.read(), name)
            for name, c in self.named_captures()
        ]

    def named_captures(self):
        """Returns the name and the `Capture` of each update of a step."""
        return [(self._names[key], c) for key, c in self.captures.items()]

    def bad_step(self):
        """Returns what was kept of the bad step of the last call.

        Returns:
            `(weights, batch, measured)`: see `Snapshot.take`, and
            `(variables, statistics)` of each optimizer; the same for every
            watcher.
        """
        if self._taken is None:
            measured = [
                (capture.variables, capture.take_bad())
                for capture in self.captures.values()
            ]
            self._taken = (*self._snapshot.take(), measured)
        return self._taken
