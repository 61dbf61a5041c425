"""All ops that the guard adds to a training step."""

import collections
import functools

import tensorflow as tf

from keras_gradguard.backend.tensorflow.capture.bad_step import (
    BadStep,
    FirstBadStep,
    LeftOutUpdates,
)
from keras_gradguard.backend.tensorflow.capture.snapshot import BatchKeeper
from keras_gradguard.backend.tensorflow.capture.totals import (
    EpochTotals,
    StepTotals,
    packed_totals,
)
from keras_gradguard.backend.tensorflow.capture.updates import (
    Captures,
    LoopCapture,
    copied_products,
)
from keras_gradguard.backend.tensorflow.internals.batches import flat_tensors
from keras_gradguard.backend.tensorflow.internals.graphs import (
    guard_variables,
)
from keras_gradguard.backend.tensorflow.internals.variables import put
from keras_gradguard.model.layers import is_default_step, runs_eagerly


class LoopProbe:
    """Measures the updates of one model in a custom loop.

    Args:
        every: Updates between two records.
        withhold: `None` to make every update, `"bad"` to leave out those of
            gradients that are not finite, `"after"` to leave out all that
            follow such a one as well.

    Attributes:
        first_bad: The `FirstBadStep` of the first bad update.
    """

    def __init__(self, every, withhold=None):
        self._captures = {}
        self._withhold = withhold
        self._every = every
        with guard_variables():
            self._is_on = tf.Variable(True, trainable=False)
        self.first_bad, self._loss = FirstBadStep(), None

    @property
    def withholds(self):
        """Whether it leaves out what a bad step would do."""
        return self._withhold is not None

    @property
    def num_skipped(self):
        """How many updates were left out, `None` where none ever is."""
        return self.first_bad.number() if self._withhold == "bad" else None

    @property
    def captures(self):
        """The `LoopCapture` of each optimizer and its variables."""
        return list(self._captures.values())

    def mark_loss(self, loss):
        """Marks the next update as bad if its loss is NaN or Inf.

        Args:
            loss: What its tape was asked of, a tensor of any shape.
        """
        self._loss = _marked(self._loss, loss)

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
        now = tf.cast(optimizer.iterations, tf.int64)
        loss, self._loss = self._loss, None
        is_bad, due = capture.before(
            gradients, is_scaled, loss, is_square_kept=not self.withholds
        )
        held = is_bad
        if self._withhold == "after":
            held = is_bad | (self._is_on.value() & self.first_bad.is_set())
        self.first_bad.mark(is_bad, now)
        return capture, held, (due, now)

    def apply(self, known, apply):
        """Makes the update, or leaves it out.

        Args:
            known: What `before_apply` returned.
            apply: Makes it; its optimizer is built.
        """
        capture, held, (_, now) = known

        def make():
            return capture.finite.make(self._is_on.value(), apply)

        is_bad = tf.cond(held, lambda: tf.constant(0.0), make)
        self.first_bad.mark(is_bad > 0, now)

    def after_apply(self, known):
        """Measures the update and keeps the record, see `LoopCapture.after`."""
        capture, _, (due, now) = known
        capture.after(due, now)

    def named_captures(self):
        """Returns the name and the `LoopCapture` of each optimizer."""
        count, found = collections.Counter(), []
        for capture in self.captures:
            name = capture.optimizer.name
            count[name] += 1
            number = f"#{count[name]}" if count[name] > 1 else ""
            found.append((name + number, capture))
        return found

    def records(self):
        """Returns the records since the last call, the oldest first.

        Returns:
            `(step, measured)` of each; `measured` as `TrainingLog.measure` has
            it, of all optimizers whose record has that step.
        """
        found = {}
        for name, capture in self.named_captures():
            for step, statistics, updates in capture.take():
                row = (capture.variables, statistics, updates, name)
                found.setdefault(step, []).append(row)
        return sorted(found.items(), key=lambda item: item[0])

    def latest(self):
        """Returns what was measured last of each optimizer, see `records`."""
        return [
            (capture.variables, capture.read(), None, name)
            for name, capture in self.named_captures()
        ]

    def histograms(self):
        """Returns nothing: a loop has none."""
        return []

    def take_bad(self):
        """Returns `(variables, statistics)` of the first bad step."""
        return [
            (capture.variables, capture.take_bad()) for capture in self.captures
        ]

    def trust_logs(self):
        """Does nothing: a loop has no logs."""

    def switch_off(self):
        """Lets compiled steps run on without being measured."""
        with guard_variables():
            self._is_on.assign(False)


NORM, SKIPPED = "grad_norm", "skipped_steps"


def _is_float(value):
    """Returns whether a value is, or may be, one floating-point number."""
    if not tf.is_tensor(value) or not value.dtype.is_floating:
        return False
    return value.shape.is_compatible_with([])


def _is_finite(value):
    is_finite = tf.math.is_finite(value)
    return is_finite if value.shape.rank == 0 else tf.reduce_all(is_finite)


def _marked(known, loss):
    """Returns one loss for several: NaN if any element of one is not finite.

    Args:
        known: That of those before, a scalar tensor, or `None`.
        loss: A further one, a tensor of any shape.
    """
    known = tf.cast(0.0 if known is None else known, tf.float32)
    return tf.where(_is_finite(loss), known, float("nan"))


class Probe:
    """Measures the steps of one model, and keeps the first bad one.

    Args:
        model: A compiled Keras model.
        num_replicas: How many replicas train it; where there are several,
            the first one measures.
        withhold: As for `LoopProbe`.
        has_histograms: Whether the elements of each gradient are counted.

    Attributes:
        captures: The `Captures` of the updates that a step makes.
        is_due: Whether the next step is to be recorded.
        first_bad: The `FirstBadStep` of the first bad step.
        epoch_totals: The `EpochTotals` of the steps.
    """

    def __init__(
        self, model, num_replicas=1, withhold=None, has_histograms=False
    ):
        self._model = model
        self._batch, self._num_seen, self._loss = [], 0, None
        self._spoiled = []
        self._has_loss = self._is_measuring = False
        # A step of the user's own may do anything anywhere.
        self._is_own = not is_default_step(model)
        self._is_xla = bool(model.jit_compile) and not runs_eagerly(model)
        self.captures = Captures(model, self._is_xla, has_histograms)
        is_alone = num_replicas == 1
        self._batch_keeper = BatchKeeper(self._is_xla, is_alone)
        self._bad_step = BadStep(model, self._is_xla)
        self._is_single = is_alone and model.steps_per_execution == 1
        self.is_due, self._record = False, None
        with guard_variables():
            self._due = tf.Variable(0.0, trainable=False)
            # What it may be; to make one takes as long as to assign it.
            self._answers = tf.constant(0.0), tf.constant(1.0)
            # Whether an entry of the logs may say that a step is bad.
            self._is_suspicious = tf.Variable(True, trainable=False)
        self.first_bad = self._bad_step.first_bad
        self.epoch_totals, self._step_totals = EpochTotals(), StepTotals()
        self._left_out = LeftOutUpdates(model, withhold, self.first_bad)

    @property
    def withholds(self):
        """Whether it leaves out what a bad step would do."""
        return self._left_out.what is not None

    @property
    def skips(self):
        """Whether it leaves out bad steps, and makes those that follow."""
        return self._left_out.what == "bad"

    @property
    def num_skipped(self):
        """How many steps were left out, `None` where none ever is."""
        return self.first_bad.number() if self.skips else None

    def expect(self, is_due):
        """Says whether the next call of the train function is recorded."""
        self._bad_step.forget()
        self._record = None
        if is_due != self.is_due:
            answer = self._answers[bool(is_due)]
            put(self._due.handle, answer)
        self.is_due = is_due

    def begin(self, data):
        """Adds what comes before a step.

        Args:
            data: The batch as `train_step` gets it.
        """
        self._batch, self._num_seen = flat_tensors(data), 0
        self.captures.begin()
        self._has_loss, self._loss = False, None
        self._step_totals.begin(is_shared=self._is_own)
        self._spoiled = []
        self._bad_step.begin(self._batch, self._is_own)
        self._left_out.begin()
        if self._is_own:
            self._batch_keeper.store(self._batch)

    def mark_loss(self, loss):
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
        if self._is_own:
            is_finite = tf.cast(_is_finite(loss), tf.float32)
            self._step_totals.add(is_bad=1.0 - is_finite)
        else:
            self._loss = _marked(self._loss, loss)

    def before_apply(self, optimizer, variables, gradients, is_scaled=True):
        """Measures gradients; returns what the other two methods take.

        Args:
            optimizer: The optimizer that gets them.
            variables: The variables that they belong to.
            gradients: The gradients.
            is_scaled: Whether the optimizer's loss scale is still in them.
        """
        capture = self.captures.find(optimizer, variables)
        self._num_seen += 1
        known = self._due.value()
        due = known > 0
        gradients = copied_products(gradients, known)
        loss = self._step_totals.watched() if self._is_own else self._loss
        self._is_measuring = True
        found = capture.store(
            gradients,
            due,
            is_scaled,
            loss,
            look=self._keep_batch,
            keep=self._bad_step.keeper(optimizer),
            # What leaves out bad steps undoes such an update.
            is_square_kept=not self.withholds,
        )
        self._is_measuring = False
        self._step_totals.add(*found)
        return capture, self._left_out.held(self._step_totals), due

    def _keep_batch(self):
        if not self._is_own:
            self._batch_keeper.store(self._batch)

    def apply(self, known, apply):
        """Makes the update, or leaves it out.

        Args:
            known: What `before_apply` returned.
            apply: Makes it.
        """
        capture, held, *_ = known
        is_spoiled = self._left_out.apply(capture, held, apply)
        self._step_totals.add(is_bad=is_spoiled)
        self._spoiled.append(is_spoiled)

    def after_apply(self, known):
        """Measures how far the update has moved the weights."""
        capture, _, due = known
        capture.measure_update(due, is_kept=True)

    def end(self, logs):
        """Adds what comes after a step; returns the logs and more.

        Args:
            logs: What `train_step` returned.
        """
        is_known = isinstance(logs, (dict, type(None)))
        logs = dict(logs or {}) if is_known else logs
        square, is_bad, has_norm = self._step_totals.total()
        loss = None if self._num_seen else self._loss
        if not self._has_loss and is_known:
            loss = logs.get("loss")
        if is_known:
            logs = self._left_out.restored(logs, is_bad > 0)
        late, is_suspected = [], False
        if _is_float(loss):
            late.append(~_is_finite(loss) & (is_bad <= 0))
        if self._is_own:
            # Its update may sit in a branch that is not taken.
            late.append((is_bad > 0) & ~self.first_bad.is_set())
            others = [v for v in (logs or {}).values() if v is not loss]
            others = [v for v in others if _is_float(v)] if is_known else []
            if others:
                is_known_bad = functools.reduce(tf.logical_or, late)
                are_finite = functools.reduce(
                    tf.logical_and, map(_is_finite, others)
                )
                is_suspected = (
                    ~are_finite
                    & (is_bad <= 0)
                    & ~is_known_bad
                    & self._is_suspicious.value()
                )
                late.append(is_suspected)
        else:
            late += [is_spoiled > 0 for is_spoiled in self._spoiled]
        if late:
            is_late = functools.reduce(tf.logical_or, late)
            marked = self._bad_step.mark_late(is_late, is_suspected)
            is_bad = tf.maximum(is_bad, marked)
        found = packed_totals(
            tf.sqrt(square),
            is_bad,
            has_norm,
            self.withholds,
            any(capture.treatment.is_scaled for capture in self.captures),
        )
        self.epoch_totals.add(
            found, logs if self._is_single and is_known else None
        )
        if is_known:
            self._batch_keeper.send(self._batch, logs)
        return logs

    def take(self, logs):
        """Takes in what a call of the train function has found.

        Args:
            logs: What it returned; what the guard has added is taken out.

        Returns:
            What `EpochTotals.take` returns.
        """
        if isinstance(logs, dict):
            self._batch_keeper.take(logs)
        return self.epoch_totals.take(logs)

    def trust_logs(self):
        """Lets no entry of the logs but the loss say that a step is bad."""
        self._is_suspicious.assign(False)

    def reset(self):
        """Makes all as it was before the first step; its graph stays."""
        self.expect(False)
        self._is_suspicious.assign(True)
        self.captures.reset()
        self._batch_keeper.reset()
        self._step_totals.reset()
        self._bad_step.reset()
        self.epoch_totals.begin()

    def stripped(self, logs):
        """Takes out of the logs of a call what the guard has added.

        Args:
            logs: What it returned, looked at or not.
        """
        if isinstance(logs, dict):
            self._batch_keeper.take(logs)
            self.epoch_totals.strip(logs)

    def switch_off(self):
        """Lets a traced step run on: not recorded, with each update made."""
        with guard_variables():
            self.expect(False)
            self._left_out.switch_off()

    def rearm(self):
        """Lets the next bad step be seen as the first one."""
        self._bad_step.clear(self.captures)

    def batch(self):
        """Returns the batch of the last step that was looked at, flat.

        That is one that was recorded, or bad. Of several replicas it is that
        of the one that measures. `None` if it was not kept.
        """
        return self._batch_keeper.read()

    def named_captures(self):
        """Returns the name and the capture of each update of a step."""
        return self.captures.named()

    def latest(self):
        """Returns the last record, see `Captures.read`."""
        if self._record is None:
            self._record = self.captures.read()
        return self._record

    def records(self):
        """Returns the last record, its step not counted here."""
        return [(None, self.latest())]

    def histograms(self):
        """Returns the histograms of the last record, see `Captures`."""
        return self.captures.histograms()

    def bad_step(self):
        """Returns `BadStep.take`."""
        return self._bad_step.take(self.captures)
