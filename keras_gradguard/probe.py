"""Step 2 of 5: all that the guard adds to the graph of a training step."""

import collections

import tensorflow as tf

from keras_gradguard.apart import apart
from keras_gradguard.batch import flat
from keras_gradguard.carry import Carry
from keras_gradguard.diagnosis import internals, keras_internals
from keras_gradguard.diagnosis.trace import named_optimizers
from keras_gradguard.latch import Latch
from keras_gradguard.optimizer_capture import OptimizerCapture
from keras_gradguard.share import Share
from keras_gradguard.snapshot import Snapshot
from keras_gradguard.tally import Tally, figures

# Key of the batch among a step's logs, on its way out.
CHANNEL = "gradguard"
NORM = "grad_norm"
# A float32 tells as many records apart.
_MOST_RECORDS = 2**24 - 1


class Probe:
    """Measures the steps of one model, and keeps the first bad one.

    Args:
        model: A compiled Keras model.
        num_replicas: How many replicas train it; where there are several,
            the first one measures.
        withhold: `None` to make every update, `"bad"` to leave out those of
            gradients that are not finite, `"after"` to leave out all that
            follow such a one as well.

    Attributes:
        captures: The `OptimizerCapture` of each update that a step makes.
        is_due: Whether the next step is to be recorded.
        withhold: As given.
        latch: The `Latch` of the first bad step.
        tally: The `Tally` of the steps.
    """

    def __init__(self, model, num_replicas=1, withhold=None):
        self.captures = {}
        self._model = model
        self._names, self._calls = {}, collections.Counter()
        self.withhold = withhold
        self._batch, self._before, self._num_seen = [], [], 0
        self._loss = self._now = self._taken = self._sent = None
        self._has_loss = self._is_measuring = False
        # A step of the user's own may do anything anywhere.
        self._is_own = not keras_internals.is_default_step(model)
        is_xla = bool(model.jit_compile) and not model.run_eagerly
        # XLA would compile a second time for a room that takes another shape.
        self._share = None if is_xla else Share()
        self._snapshot = Snapshot(model, is_xla, model.steps_per_execution > 1)
        self._is_alone = num_replicas == 1
        self._is_single = self._is_alone and model.steps_per_execution == 1
        self.is_due, self._number = False, 0
        with internals.room():
            # Number of the record that is due, 0 for none.
            self._due = tf.Variable(0.0, trainable=False)
        self.latch, self.tally, self._carry = Latch(), Tally(), Carry()

    def expect(self, is_due):
        """Says whether the next call of the train function is recorded."""
        self._taken = None
        if is_due:
            self._number = self._number % _MOST_RECORDS + 1
            internals.put(self._due, float(self._number))
        elif self.is_due:
            internals.put(self._due, 0.0)
        self.is_due = is_due

    def begin(self, data):
        """Adds what comes before a step.

        Args:
            data: The batch as `train_step` gets it.
        """
        self._batch = flat(data)
        self._num_seen = 0
        self._calls.clear()
        self._has_loss, self._loss, self._now = False, None, None
        self._carry.begin(is_shared=self._is_own)
        self._snapshot.begin()
        if self._share is not None and self._is_own:
            self._share.keep(self._batch)
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
        if loss.shape.rank == 0 and self._loss is None and not self._is_own:
            self._loss = loss
            return
        is_finite = tf.reduce_all(tf.math.is_finite(loss))
        if self._is_own:
            self._carry.add(is_bad=1.0 - tf.cast(is_finite, tf.float32))
        else:
            known = 0.0 if self._loss is None else self._loss
            known = tf.cast(known, tf.float32)
            self._loss = tf.where(is_finite, known, float("nan"))

    def before_apply(self, optimizer, variables, gradients, is_scaled=True):
        """Measures gradients; returns what the other two methods take.

        Args:
            optimizer: The optimizer that gets them.
            variables: The variables that they belong to.
            gradients: The gradients.
            is_scaled: Whether the optimizer's loss scale is still in them.
        """
        capture = self._capture(optimizer, variables)
        self._num_seen += 1
        number = self._due.value()
        due = number > 0
        gradients = apart(gradients, number)
        loss = self._carry.watched() if self._is_own else self._loss
        self._is_measuring = True
        found = capture.store(
            gradients,
            due,
            is_scaled,
            loss,
            look=self._keep_batch,
            keep=self._keeper(optimizer),
        )
        self._is_measuring = False
        self._carry.add(*found)
        held = None
        if self.withhold is not None:
            held = self._carry.is_bad()
        if self.withhold == "after":
            held |= self.latch.is_set()
        return capture, held, due, number

    def _keep_batch(self):
        if self._share is not None and not self._is_own:
            self._share.keep(self._batch)

    def _keeper(self, optimizer):
        """Returns what makes the ops that keep a bad step."""
        here, now = internals.graph_here(), None
        if self._is_own:
            # By its second update a step has been counted already.
            if self._now is None or self._now[0] is not here:
                self._now = here, tf.identity(optimizer.iterations)
            now = self._now[1]

        def keep():
            self._mark(optimizer.iterations if now is None else now)
            self._snapshot.keep(self._batch)

        return keep

    def _mark(self, now):
        self.latch.mark(tf.constant(True), tf.cast(now, tf.int64))

    def _capture(self, optimizer, variables):
        """Returns the capture of this update, the same one in each step."""
        self._calls[id(optimizer)] += 1
        number = self._calls[id(optimizer)]
        key = (id(optimizer), tuple(map(id, variables)), number)
        if key not in self.captures:
            self.captures[key] = OptimizerCapture(optimizer, variables)
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
        capture, held, *_ = known
        if held is None:
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
        capture, _, due, number = known
        capture.measure_update(due, number)

    def end(self, logs):
        """Adds what comes after a step; returns the logs and more.

        Args:
            logs: What `train_step` returned.
        """
        is_known = isinstance(logs, (dict, type(None)))
        logs = dict(logs or {}) if is_known else logs
        square, is_bad = self._carry.total()
        if self.withhold is not None and is_known:
            logs = self._restored(logs, is_bad > 0)
        loss = None if self._num_seen else self._loss
        if not self._has_loss and is_known:
            loss = logs.get("loss")
        if tf.is_tensor(loss) and loss.dtype.is_floating:
            is_bad += self._mark_late(~tf.math.is_finite(loss) & (is_bad <= 0))
        norm = tf.sqrt(square) if self._num_seen else None
        found = figures(norm, is_bad, self.withhold is not None)
        self.tally.add(found, logs if self._is_single and is_known else None)
        if self._share is None and self._is_alone and is_known:
            logs[CHANNEL] = tuple(self._batch)
        return logs

    def take(self, logs):
        """Takes in what a call of the train function has found.

        Args:
            logs: What it returned; what the guard has added is taken out.

        Returns:
            What `Tally.take` returns.
        """
        self._sent = None
        if isinstance(logs, dict):
            self._sent = logs.pop(CHANNEL, None)
        return self.tally.take(logs)

    def _mark_late(self, is_bad):
        """Latches a step whose loss alone is known to be bad."""
        optimizer = getattr(self._model, "optimizer", None)
        now = 0 if optimizer is None else optimizer.iterations
        if self._now is not None and self._now[0] is internals.graph_here():
            now = self._now[1]

        def mark():
            self._mark(now)
            return tf.constant(1.0)

        return internals.rarely(is_bad, mark, 0.0)

    def batch(self):
        """Returns the batch of the last step that was looked at, flat.

        That is one that was recorded, or bad. Of several replicas it is that
        of the one that measures. `None` if it was not kept.
        """
        return self._sent if self._share is None else self._share.read()

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
        """Returns the last record, update by update.

        Returns:
            A list of `(variables, statistics, updates, name)`, see
            `OptimizerCapture.read_record`, `VariableHealth.optimizer`.
        """
        return [
            (c.variables, *c.read_record(self._number), name)
            for name, c in self.named_captures()
        ]

    def named_captures(self):
        """Returns the name and the capture of each update of a step."""
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
