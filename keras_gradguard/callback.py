"""The callback that finds broken gradients in `fit`."""

import warnings

import keras

from keras_gradguard import backend
from keras_gradguard.errors import (
    ACTIONS,
    FaultBarrier,
    checked_action,
    checked_flag,
    checked_folder,
    fault_sentence,
)
from keras_gradguard.expected import Expected
from keras_gradguard.model.console import print_line
from keras_gradguard.records.report import Report
from keras_gradguard.records.text import closing_line
from keras_gradguard.report.scalars import checked_level
from keras_gradguard.schedule import Schedule
from keras_gradguard.thresholds import thresholds_of

if backend.unsupported() is None:
    from keras_gradguard.backend.tensorflow.hook.fit import hook_of
    from keras_gradguard.backend.tensorflow.hook.running import (
        fit_draws_elsewhere,
        num_replicas,
        running_fit,
    )
    from keras_gradguard.backend.tensorflow.internals.randomness import (
        nothing_drawn,
    )
    from keras_gradguard.backend.tensorflow.internals.variables import (
        num_updates,
    )
    from keras_gradguard.monitor.bad_step import BadSteps
    from keras_gradguard.monitor.log import TrainingLog
    from keras_gradguard.monitor.monitor import Monitor
    from keras_gradguard.monitor.response import Response
    from keras_gradguard.monitor.symptoms import Symptoms
    from keras_gradguard.report.writer import SummaryWriter

_NO_TRAINING = (
    "This callback has not been used in a `fit`. (If Keras trained with a copy "
    "of it, see the report of that copy.)"
)


class GradHealthCallback(keras.callbacks.Callback):
    """Finds broken gradients while a model trains, and records their norms.

    Every trainable variable must get a gradient, on the first batch (before
    the first weight update) and at every later trace of the training step.
    If one gets none, the report names the op and the source line that cut
    it. A variable that Keras does not track, such as a `tf.Variable` stored
    as an attribute of a layer, is reported with the first record.

    The callback computes the L2 norm of each variable's gradient inside the
    training step, without loss scaling and before clipping.

    If a gradient or the loss is NaN or Inf, the callback replays that step
    outside the training to find where the value first appears. With
    `log_dir` it also saves the step below `<log_dir>/incidents` (at most 3
    steps of at most 256 MB each) for `python -m keras_gradguard replay`.

    Gradients that stay zero, vanish, explode or do not change the weights
    are reported after `thresholds["patience"]` consecutive records, so a
    smaller `every` reports them sooner.

    On a backend other than TensorFlow the callback warns once and does
    nothing; its report says that gradients were not checked.

    Args:
        log_dir: Folder for TensorBoard; the run is `<log_dir>/gradients`.
            `None` writes nothing.
        every: Number of steps between two records, starting with the first
            step; or a function of the step that returns whether to record
            it, such as `lambda step: step < 10 or step % 100 == 0` or
            `keras_gradguard.schedule.thinning`. The function is called once
            per step. Steps count from 0 in each `fit`, one for each call of
            the train function (several batches with `steps_per_execution`).
        on_break: What to do about a broken gradient: `"warn"` (once for
            each cut), `"raise"` a `GradientBreakError`, or `"stop"` the
            training. If no variable gets a gradient, Keras cannot continue
            and `"warn"` raises `GradientBreakError` too.
        on_nonfinite: What to do about a gradient or loss that is NaN or Inf:
            `"warn"`; `"raise"` a `GradientBreakError`; `"stop"` the
            training; or `"skip"` the step and continue. With all but
            `"warn"`, weights, optimizer and layer state stay as they were
            before the step. A custom `train_step` is checked by its
            gradients only, unless it calls `optimizer.scale_loss`; if it
            makes several updates, the bad one and those after it are not
            applied.
        expect: Silences known, harmless findings: a regular expression, or
            a list of them, for the paths (`re.search`) of variables that
            need no gradient; `keras_gradguard.expected` has `POOLER` and
            `AUXILIARY_HEAD`. A `pathlib.Path`, alone or in the list, is a
            baseline file, written from `report.to_json()` of an earlier
            training: its findings become notes in the report.
        thresholds: When a gradient is too small or too large: `"default"`,
            `"sagemaker"`, `"autotrainer"`, `"deepchecker"`, or a dict such
            as `{"patience": 3}`; its key `"preset"` names the preset to
            start from. See `keras_gradguard.thresholds.Thresholds`.
        scalars: The curves on TensorBoard's own pages: `"variables"` (the
            norm of each gradient), `"layers"` (one norm per layer),
            `"global"` (the global norm, and how many gradients are missing,
            zero or not finite), or `"histograms"` (`"variables"` and a
            histogram of each gradient: slow, with large logs). The
            Gradients tab always has all norms.
        log_norm: Whether to add `grad_norm`, the mean of the global norm over
            the epoch so far, to the logs: for the progress bar, `History`,
            `CSVLogger` or `EarlyStopping("grad_norm", mode="min")`.

    Raises:
        ValueError: If an argument has an invalid value.
        TypeError: If `log_dir` is not a path, or `log_norm` is not a Boolean.

    Example:
    ```python
    callback = GradHealthCallback(log_dir="logs")
    model.fit(x, y, callbacks=[callback])
    print(callback.report)
    ```
    """

    def __init__(
        self,
        log_dir=None,
        every=10,
        on_break="warn",
        on_nonfinite="warn",
        expect=(),
        thresholds="default",
        scalars="variables",
        log_norm=False,
    ):
        super().__init__()
        self.every = every
        self.on_break = checked_action("on_break", on_break)
        self.on_nonfinite = checked_action(
            "on_nonfinite", on_nonfinite, (*ACTIONS, "skip")
        )
        self.log_dir = checked_folder(log_dir)
        self.expect = expect
        self.thresholds = thresholds
        self.scalars = checked_level(scalars)
        self.log_norm = checked_flag("log_norm", log_norm)
        self._schedule = Schedule(every)
        self._thresholds = thresholds_of(thresholds)
        self._expected = Expected(expect)
        self._log = None
        self._monitor = None
        self._num_steps = 0
        self._is_due, self._has_looked = False, False
        self._unsupported = backend.unsupported()
        # Keras on JAX waits for each step unless every callback says this.
        self.async_safe = self._unsupported is not None
        self._not_checked = [self._unsupported or _NO_TRAINING]
        self._barrier = FaultBarrier(self._note_fault)

    @property
    def report(self):
        """The `Report` so far: findings, and each variable's gradient."""
        if self._log is None:
            return Report(not_checked=" ".join(self._not_checked) or None)
        return self._log.report

    def on_train_begin(self, logs=None):
        """Attaches to the training step and starts a new report."""
        if self._unsupported is not None:
            backend.warn_unsupported()
            return
        self._num_steps = 0
        self._is_due, self._has_looked = False, False
        self._log, self._not_checked = None, []
        barrier, number = FaultBarrier(self._note_fault), 1
        self._barrier = barrier
        with barrier.guarded():
            self._leave()
            number = num_replicas(self.model)
            with nothing_drawn(fit_draws_elsewhere(running_fit())):
                self._begin()
        if self._monitor is not None:
            self._barrier = self._monitor.barrier
        elif self._log is not None:
            with barrier.guarded():
                self._log.write_verdict(is_whole=True)
            with barrier.guarded():
                self._log.close()
        if number > 1 and self.on_nonfinite != "warn":
            warnings.warn(
                f"GradHealthCallback cannot undo a step of {number} replicas: "
                f"with on_nonfinite={self.on_nonfinite!r} the weights are not "
                "restored after a NaN or Inf step.",
                UserWarning,
                stacklevel=2,
            )

    def _begin(self):
        writer = None
        if self.log_dir:
            writer = SummaryWriter(self.log_dir, self.scalars)
        self._log = TrainingLog(self.model, num_updates, writer)
        self._log.not_checked = self._not_checked
        hook = hook_of(self.model)
        response = Response(self._log, self.on_break, self._expected, hook.stop)
        self._monitor = Monitor(
            hook,
            self._log,
            response,
            Symptoms(hook, self._log, self._thresholds, self._expected),
            BadSteps(hook, self._log, self.log_dir),
            self._expected,
            self.on_nonfinite,
            self.every,
            self.log_norm,
        )

    def _note_fault(self, reason):
        self._not_checked.append(
            fault_sentence("before the first step ended", reason)
        )

    def on_epoch_begin(self, epoch, logs=None):
        """Stores the epoch for later diagnoses."""
        if self._log is not None:
            self._log.epoch = epoch
        if self._monitor is not None:
            with self._barrier.guarded():
                self._monitor.begin_epoch()

    def on_train_batch_begin(self, batch, logs=None):
        """Prepares the next call of the train function."""
        if self._monitor is None:
            return
        self._is_due, refused = False, None
        try:
            with self._barrier.guarded():
                try:
                    is_due = self._schedule.is_due(self._num_steps)
                    self._is_due = is_due or self._monitor.wants_next
                except ValueError as error:
                    # The function given as `every` has failed.
                    refused = error
            if refused is not None:
                raise refused
        except BaseException:
            with self._barrier.guarded():
                self._leave()
            raise
        with self._barrier.guarded():
            self._monitor.expect_step(self._is_due)
        if not self._barrier.is_open:
            with self._barrier.guarded():
                self._monitor.run_on()

    def on_train_batch_end(self, batch, logs=None):
        """Checks the step and writes a record when one is due."""
        self._num_steps += 1
        if self._monitor is None:
            return
        try:
            with self._barrier.guarded():
                if self._is_due:
                    self._monitor.read(is_first=not self._has_looked)
                    self._has_looked = True
                self._monitor.after_step()
        except BaseException:
            with self._barrier.guarded():
                self._leave()
            raise

    def on_train_end(self, logs=None):
        """Restores the model and prints the verdict in one line."""
        if self._monitor is None:
            return
        with self._barrier.guarded():
            self._monitor.end()
        with self._barrier.guarded():
            self._leave(is_whole=True)
        with self._barrier.guarded():
            report = self._log.report
            is_error = any(d.severity == "error" for d in report.diagnoses)
            # `fit` tells callbacks "auto" as 1.
            if (self.params or {}).get("verbose", 1) or is_error:
                print_line(
                    closing_line(
                        report,
                        self._log.norms,
                        self._log.num_records,
                        "`callback.report`"
                        + (f" or TensorBoard at {str(self.log_dir)!r}")
                        * bool(self.log_dir),
                    )
                )

    def _leave(self, is_whole=False):
        """Restores the model, writes the verdict and closes the event file."""
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            with self._barrier.guarded():
                monitor.finish(is_whole)
