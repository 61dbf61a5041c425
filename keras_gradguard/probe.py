"""Step 2 of 5: all that the guard adds to the graph of a training step."""

import tensorflow as tf

from keras_gradguard.batch import flat
from keras_gradguard.capture import Capture
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
    """

    def __init__(self, model, withhold=None):
        self.captures = {}
        self._model = model
        self._withhold = withhold
        self._batch, self._before, self._num_seen = [], [], 0
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
        self._step.assign([0.0, 0.0])
        self._snapshot.begin(self._model)
        if self._withhold is not None:
            kept = [
                *self._model.non_trainable_weights,
                *self._model.metrics_variables,
            ]
            self._before = [(v, tf.identity(v)) for v in kept]

    def before_apply(self, optimizer, variables, gradients):
        """Measures gradients; returns what the other two methods take."""
        key = (id(optimizer), tuple(map(id, variables)))
        if key not in self.captures:
            self.captures[key] = Capture(optimizer, variables)
        capture = self.captures[key]
        self._num_seen += 1
        square, is_bad = capture.store(gradients, self._due)
        self._step.assign_add(tf.stack([square, tf.cast(is_bad, tf.float32)]))
        held = is_bad
        if self._withhold == "after":
            held = is_bad | (self._latch[0] != _NEVER)
        self._mark(is_bad)
        return capture, held, capture.updates.before(gradients, self._due)

    def apply(self, known, apply):
        """Makes the update, or leaves it out.

        Args:
            known: What `before_apply` returned.
            apply: Makes it.
        """
        capture, held, _ = known
        if self._withhold is None:
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
        if self._withhold is not None:
            logs = self._restored(logs, is_bad)
        loss = logs.get("loss")
        if tf.is_tensor(loss) and loss.dtype.is_floating:
            self._mark(~tf.math.is_finite(loss) & ~is_bad)
        if self._num_seen and NORM not in logs:
            logs[NORM] = self._mean_norm(is_bad)
        logs[CHANNEL] = (self._latch.value(), tuple(self._batch))
        return logs

    def _mark(self, is_bad):
        """Latches a bad step; its weights and its batch are kept."""
        optimizer = getattr(self._model, "optimizer", None)
        now = 0 if optimizer is None else optimizer.iterations
        now = tf.cast(now, tf.int64)
        first, count = tf.unstack(self._latch)
        is_first = is_bad & tf.equal(first, _NEVER)
        first = tf.where(is_first, now, first)
        count += tf.cast(is_bad, tf.int64)
        self._snapshot.keep(is_bad, self._batch)
        self._latch.assign(tf.stack([first, count]))

    def _mean_norm(self, is_bad):
        one = tf.constant(1.0)
        if self._withhold is not None:
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

    def read_latch(self):
        """Returns `(updates before the first bad step or -1, number)`."""
        return self._latch.numpy()

    def take(self):
        """Returns the bad step that was kept; see `Snapshot.take`."""
        return self._snapshot.take()

    def rearm(self):
        """Lets the next bad step be seen as the first one."""
        self._latch.assign([_NEVER, 0])
