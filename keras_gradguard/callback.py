"""The callback that decides at which steps the guard looks and records."""

import warnings

import keras

from keras_gradguard import backend
from keras_gradguard.errors import (
    ACTIONS,
    FaultBarrier,
    checked_action,
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
    "This callback was in no `fit`, and what a copy of it has seen is in the "
    "report of the copy."
)


class GradHealthCallback(keras.callbacks.Callback):
    """Finds broken gradients while a model trains, and records their norms.

    On the first batch, before the first weight update, and at every later
    trace of the training step, each trainable variable must get a gradient.
    One that gets none is traced back to the op and the source line that cut
    it; one that Keras does not know, such as a `tf.Variable` as an attribute
    of a layer, is named with the first record. The L2 norm of every
    variable's gradient is taken in the training step itself, unscaled and
    before clipping; its mean over the epoch so far is `grad_norm` in the logs.

    A step whose gradient or loss is NaN or Inf is run once more outside the
    training, to say where it begins; with `log_dir` it is also kept below
    `<log_dir>/incidents` (at most 3, of at most 256 MB each), for `python -m
    keras_gradguard replay`. A gradient that stays zero, fades, explodes or
    moves no weight is told of after `thresholds["patience"]` records, so
    the more records the sooner.

    Where Keras does not run on TensorFlow the callback warns once and does
    nothing; its report says that gradients were not checked.

    Args:
        log_dir: Folder for TensorBoard; the run is `<log_dir>/gradients`.
            `None` writes nothing.
        every: Steps between two written records, of which the first step is
            one; or a function of the step that returns whether to record
            it, such as `lambda step: step < 10 or step % 100 == 0` or
            `keras_gradguard.schedule.thinning`. It is asked once a step;
            steps count from 0 in each `fit`, one for each call of the train
            function (several batches with `steps_per_execution`).
        on_break: What a broken gradient does: `"warn"` (once for each cut),
            `"raise"` a `GradientBreakError`, or `"stop"` the training. Where
            no variable gets a gradient Keras cannot go on: `"warn"` then
            raises `GradientBreakError` too.
        on_nonfinite: What a gradient or loss that is not finite does:
            `"warn"`; `"raise"` a `GradientBreakError`; `"stop"` the
            training; or `"skip"`, go on without that step. But for
            `"warn"` the weights, the optimizer and the statistics of
            layers stay as they were before it. A `train_step` of the
            user's own is held back by its gradients alone, unless it calls
            `optimizer.scale_loss`; of several updates in it, the bad one
            and those after it.
        expect: Regular expressions; a variable whose path one of them finds
            (`re.search`) is meant to get no gradient. Ready-made ones are
            `POOLER` and `AUXILIARY_HEAD` in `keras_gradguard.expected`. A
            `pathlib.Path` among them, or alone, is a file of accepted
            breaks, the `report.to_json()` of an earlier training: they are
            notes in the report, not warned of and not acted on.
        thresholds: From which figures on a gradient is too small or too
            large: `"default"`, `"sagemaker"`, `"autotrainer"`,
            `"deepchecker"`, or a dict of figures such as `{"patience": 3}`;
            `"preset"` in it names the one that they change. See
            `keras_gradguard.thresholds.Thresholds`.
        scalars: Which curves TensorBoard's own pages get: `"variables"` (the
            norm of each gradient), `"layers"` (one for each layer),
            `"global"` (the norm over all, and how many gradients are missing,
            zero or not finite), or `"histograms"` (the first, and the spread
            of each gradient: slow, and much to write). The Gradients tab has
            all norms, whichever.

    Raises:
        ValueError: If an argument is not as described.

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
    ):
        super().__init__()
        self.every = every
        self.on_break = checked_action("on_break", on_break)
        self.on_nonfinite = checked_action(
            "on_nonfinite", on_nonfinite, (*ACTIONS, "skip")
        )
        self.log_dir = log_dir
        self.expect = expect
        self.thresholds = thresholds
        self.scalars = checked_level(scalars)
        self._schedule = Schedule(every)
        self._thresholds = thresholds_of(thresholds)
        self._expected = Expected(expect)
        self._log = None
        self._monitor = None
        self._num_steps = 0
        self._is_due, self._has_looked = False, False
        # Keras on JAX waits for each step unless every callback says this.
        self.async_safe = backend.unsupported() is not None
        self._not_checked = [backend.unsupported() or _NO_TRAINING]

    @property
    def report(self):
        """The live `Report`: what is broken and each variable's gradient."""
        if self._log is None:
            return Report(not_checked=" ".join(self._not_checked) or None)
        return self._log.report

    def on_train_begin(self, logs=None):
        """Hooks the training step and starts a new report."""
        self._leave()
        if backend.unsupported() is not None:
            backend.warn_unsupported()
            return
        self._num_steps = 0
        self._is_due, self._has_looked = False, False
        self._log, self._not_checked = None, []
        barrier, number = FaultBarrier(self._note_fault), 1
        with barrier.guarded():
            number = num_replicas(self.model)
            with nothing_drawn(fit_draws_elsewhere(running_fit())):
                self._begin()
        if self._monitor is None and self._log is not None:
            with barrier.guarded():
                self._log.write_verdict(is_whole=True)
            with barrier.guarded():
                self._log.close()
        if number > 1 and self.on_nonfinite != "warn":
            warnings.warn(
                "GradHealthCallback cannot leave out a step that several "
                f"replicas take together ({number} here), so with on_nonfinite="
                f"{self.on_nonfinite!r} the weights of a bad step are not "
                "those before it.",
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
        )

    def _note_fault(self, reason):
        self._not_checked.append(
            fault_sentence("before its first step was done", reason)
        )

    def on_epoch_begin(self, epoch, logs=None):
        """Notes the epoch for the diagnoses to come."""
        if self._log is not None:
            self._log.epoch = epoch
        if self._monitor is not None:
            self._monitor.begin_epoch()

    def on_train_batch_begin(self, batch, logs=None):
        """Lets the next call of the train function be guarded."""
        if self._monitor is None:
            return
        self._is_due, refused = False, None
        try:
            with self._monitor.barrier:
                try:
                    self._is_due = self._schedule.is_due(self._num_steps)
                except ValueError as error:
                    # It is the user's own function that fails.
                    refused = error
            if refused is not None:
                raise refused
        except BaseException:
            self._leave()
            raise
        self._monitor.expect_step(self._is_due)

    def on_train_batch_end(self, batch, logs=None):
        """Looks at the step, writes a record when one is due."""
        self._num_steps += 1
        if self._monitor is None:
            return
        try:
            if self._is_due:
                self._monitor.read(is_first=not self._has_looked)
                self._has_looked = True
            self._monitor.after_step()
        except BaseException:
            self._leave()
            raise

    def on_train_end(self, logs=None):
        """Leaves the model as it was, and says in one line what is known."""
        if self._monitor is None:
            return
        self._monitor.end()
        self._leave(is_whole=True)
        barrier = FaultBarrier(self._note_fault)
        with barrier.guarded():
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
                        + (f" or TensorBoard at {self.log_dir!r}")
                        * bool(self.log_dir),
                    )
                )

    def _leave(self, is_whole=False):
        """Leaves the model as it was, writes the verdict, closes the file."""
        if self._monitor is not None:
            self._monitor.finish(is_whole)
            self._monitor = None
