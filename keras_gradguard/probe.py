"""Step 2 of 5: all that the guard adds to the graph of a training step."""

import collections

import tensorflow as tf

from keras_gradguard.apart import apart
from keras_gradguard.batch import flat
from keras_gradguard.capture import Capture
from keras_gradguard.diagnosis.trace import named_optimizers
from keras_gradguard.snapshot import Snapshot

# Key of the guard's own outputs among a step's logs, on their way out.
CHANNEL = "gradguard"
NORM = "grad_norm"
_NEVER = -1


class Probe:
    """Measures the steps of one model, and keeps the first bad one.

    Args:
        model: A compiled Keras model.
        withhold: `None` to make every update, `"bad"` to leave out those of
            gradients that are not finite, `"after"` to leave out all that
            follow such a one as well.

    Attributes:
        captures: The `Capture` of each update that a step makes.
        is_due: Whether the next step is to be recorded.
        withhold: As given.
    """

    def __init__(self, model, withhold=None):
        self.captures = {}
        self._model = model
        self._names, self._calls = {}, collections.Counter()
        self._now = None
        self.withhold = withhold
        self._batch, self._before, self._num_seen = [], [], 0
        self._has_loss, self._is_measuring = False, False
        self._taken = None
        is_xla = bool(model.jit_compile) and not model.run_eagerly
        self._snapshot = Snapshot(model, is_xla, model.steps_per_execution > 1)
        self.is_due = False
        with tf.init_scope():
            self._due = tf.Variable(False, trainable=False)
            # Of this step: the squared norm, and 1 if it is bad.
            self._step = tf.Variable([0.0, 0.0], trainable=False)
            # Of this epoch: the sum of the norms, and how many they are.
            self._epoch = tf.Variable([0.0, 0.0], trainable=False)
            # Updates before the first bad step, and how many bad steps.
            self._latch = tf.Variable([_NEVER, 0], False, dtype=tf.int64)

    def expect(self, is_due):
        """Says whether the next call of the train function is recorded."""
        self._taken = None
        for capture in self.captures.values() if is_due else ():
            capture.clear()
        if is_due != self.is_due:
            self.is_due = is_due
            self._due.assign(is_due)

    def begin_epoch(self):
        """Starts the mean of the norms anew, as Keras does for the loss."""
        self._epoch.assign([0.0, 0.0])

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

    def before_apply(self, optimizer, variables, gradients):
        """Measures gradients; returns what the other two methods take."""
        capture = self._capture(optimizer, variables)
        if not self._num_seen:
            self._now = tf.cast(optimizer.iterations, tf.int64)
        self._num_seen += 1
        self._is_measuring = True
        known = apart(gradients, self._due.read_value())
        square, is_bad = capture.store(known, self._due)
        self._is_measuring = False
        self._step.assign_add(tf.stack([square, tf.cast(is_bad, tf.float32)]))
        is_bad = self._step[1] > 0
        held = is_bad
        if self.withhold == "after":
            held = is_bad | (self._latch[0] != _NEVER)
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
        if self._num_seen and NORM not in logs:
            logs[NORM] = self._mean_norm(is_bad)
        logs[CHANNEL] = (self._latch.value(), tuple(self._batch))
        return logs

    def _mark(self, is_bad):
        """Latches a bad step; its weights and its batch are kept."""
        now = self._now if self._num_seen else self._num_updates()
        first, count = tf.unstack(self._latch)
        is_first = is_bad & tf.equal(first, _NEVER)
        first = tf.where(is_first, now, first)
        count += tf.cast(is_bad, tf.int64)
        self._latch.assign(tf.stack([first, count]))

    def _num_updates(self):
        optimizer = getattr(self._model, "optimizer", None)
        now = 0 if optimizer is None else optimizer.iterations
        return tf.cast(now, tf.int64)

    def _mean_norm(self, is_bad):
        one = tf.constant(1.0)
        if self.withhold is not None:
            one = tf.where(is_bad, 0.0, 1.0)
        norm = tf.sqrt(self._step[0])
        norm = tf.where(tf.equal(one, 0.0), 0.0, norm)
        self._epoch.assign_add(tf.stack([norm, one]))
        return tf.math.divide_no_nan(self._epoch[0], self._epoch[1])

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
            (c.variables, c.read(), c.updates.read(), self._names[key])
            for key, c in self.captures.items()
        ]

    def read_latch(self):
        """Returns `(updates before the first bad step or -1, number)`."""
        return self._latch.numpy()

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

    def rearm(self):
        """Lets the next bad step be seen as the first one."""
        self._latch.assign([_NEVER, 0])
