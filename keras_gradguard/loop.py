"""The context manager that finds broken gradients in a custom loop."""

import contextlib
import warnings

from keras_gradguard import backend
from keras_gradguard.errors import (
    ACTIONS,
    FaultBarrier,
    LoopStopped,
    checked_action,
    checked_folder,
    fault_sentence,
)
from keras_gradguard.expected import Expected
from keras_gradguard.model.console import print_line
from keras_gradguard.records.report import Report
from keras_gradguard.records.text import closing_line
from keras_gradguard.report.scalars import checked_level
from keras_gradguard.schedule import checked_every
from keras_gradguard.thresholds import thresholds_of

if backend.unsupported() is None:
    from keras_gradguard.backend.tensorflow.hook.loop import LoopHook
    from keras_gradguard.backend.tensorflow.hook.running import is_chief
    from keras_gradguard.backend.tensorflow.internals.variables import (
        num_updates,
    )
    from keras_gradguard.monitor.bad_step import BadSteps
    from keras_gradguard.monitor.log import TrainingLog
    from keras_gradguard.monitor.monitor import LEFT_OUT, Monitor
    from keras_gradguard.monitor.response import Response
    from keras_gradguard.monitor.symptoms import Symptoms
    from keras_gradguard.report.writer import SummaryWriter

_NO_STEP = "The `with` block of `watch` has not started."
_NOTHING = (
    "watch({name}) saw no update of the model's variables, so nothing was "
    "measured or checked. {why}"
)
_TRACED = (
    "Either the loop never calls an optimizer that it found, or that optimizer "
    "updates other variables. Or a @tf.function that was called before the "
    "block keeps its earlier trace: enter `watch` before the first call of the "
    "training step, or recreate the step inside the block: "
    "`step = tf.function(step.python_function)`"
)
_NO_OPTIMIZER = (
    "No Keras optimizer was found; pass yours: watch(model, optimizer=...)."
)


def watch(
    model,
    log_dir=None,
    every=10,
    on_break="warn",
    on_nonfinite="warn",
    expect=(),
    thresholds="default",
    optimizer=None,
    scalars="variables",
):
    """Finds broken gradients in a custom training loop.

    `watch` does for a loop with `tf.GradientTape` what `GradHealthCallback`
    does for `fit`. A step is one call of `optimizer.apply` (or
    `apply_gradients`) that trains a variable of the model; other models and
    optimizers are not affected. In the first step, before the first update,
    every trainable variable must get a gradient; if one gets none, the
    report names the op and the source line that cut it. The norms are those
    of the gradients that the loop passes to the optimizer, without loss
    scaling and before the optimizer clips them.

    If the training step is a `tf.function`, enter the block before its first
    call. A step traced earlier cannot be measured; `watch` then warns at the
    end of the block. A compiled step runs no Python, so its records stay in
    the graph (at most 512) until `health.step()`, which you may call in every
    iteration, or the end of the block. An eager loop does not need
    `health.step()`. After the block, a `tf.function` traced inside it no
    longer measures anything.

    With any `on_nonfinite` but `"warn"` the weights stay as they were before
    the bad update. `watch` locates the origin of a NaN only in the first step
    of an eager loop, because it cannot replay later steps; for the same
    reason it does not explain gradients that stay zero. With several
    replicas the norms are those of the summed gradients, and every update is
    applied.

    Args:
        model: The Keras model to watch; it need not be compiled or built.
        log_dir: As for `GradHealthCallback`. With several machines only the
            chief measures, writes and warns.
        every: Number of steps between two records, starting with the first
            step.
        on_break: What to do about a missing gradient: `"warn"`, `"raise"` a
            `GradientBreakError`, or `"stop"`: leave the block before the
            update, without an exception, and continue after it. If no
            variable gets a gradient, Keras cannot continue and `"warn"`
            raises `GradientBreakError` too.
        on_nonfinite: What to do about a gradient that is NaN or Inf:
            `"warn"`, `"raise"`, `"stop"` or `"skip"` (do not apply that
            update). In a compiled step `"raise"` and `"stop"` take effect at
            the next `health.step()`; until then no update is applied.
        expect: As for `GradHealthCallback`.
        thresholds: As for `GradHealthCallback`.
        optimizer: The Keras optimizer of the loop, or a list of them. By
            default every optimizer that exists when the block starts or is
            created in it before the end of the first step.
        scalars: As for `GradHealthCallback`, without `"histograms"`.

    Returns:
        A `Watch`, for use in a `with` statement.

    Raises:
        ValueError: If an argument has an invalid value.
        UnsupportedBackendError: If Keras does not run on TensorFlow.

    Example:
    ```python
    with watch(model, log_dir="logs") as health:
        for x, y in batches:
            train_step(x, y)
            health.step()
    print(health.report)
    ```
    """
    backend.require_supported()
    return Watch(
        model,
        checked_folder(log_dir),
        checked_every(every),
        checked_action("on_break", on_break),
        checked_action("on_nonfinite", on_nonfinite, (*ACTIONS, "skip")),
        Expected(expect),
        thresholds_of(thresholds),
        optimizer,
        checked_level(scalars, has_histograms=False),
    )


class Watch:
    """Checks a model while its `with` block runs, see `watch`.

    Args:
        model: The Keras model.
        log_dir: Folder for TensorBoard, or `None`.
        every: Steps between two records.
        on_break: `"warn"`, `"raise"` or `"stop"`.
        on_nonfinite: The same, or `"skip"`.
        expected: The `Expected` findings.
        thresholds: The `Thresholds`.
        optimizer: An optimizer, a list of them, or `None` to find them.
        scalars: The curves to write.

    Attributes:
        stopped: Whether `"stop"` ended the block.
    """

    def __init__(
        self,
        model,
        log_dir,
        every,
        on_break,
        on_nonfinite,
        expected,
        thresholds,
        optimizer,
        scalars,
    ):
        self.stopped = False
        self._model = model
        self._log_dir = log_dir
        self._every = every
        self._actions = (on_break, on_nonfinite)
        self._expected = expected
        self._thresholds = thresholds
        self._optimizer = optimizer
        self._scalars = scalars
        self._hook = self._monitor = self._log = None
        self._barrier = FaultBarrier(self._note_fault)
        self._not_checked = [_NO_STEP]

    @property
    def report(self):
        """The `Report` so far: findings, and each variable's gradient."""
        if self._log is None:
            return Report(not_checked=" ".join(self._not_checked) or None)
        return self._log.report

    def step(self):
        """Reads the records of a compiled step, writes and checks them.

        You may call it in every iteration; it costs next to nothing when no
        record is due.

        Raises:
            GradientBreakError: If a gradient is broken and `on_break` or
                `on_nonfinite` is `"raise"`.
        """
        if self._monitor is not None:
            with self._barrier.guarded():
                self._hook.read()

    def __enter__(self):
        """Attaches to the optimizers and checks the first step."""
        if self._monitor is not None:
            raise RuntimeError(
                "this `watch` is already running; create another one"
            )
        self.stopped = False
        self._log, self._not_checked = None, []
        self._barrier = barrier = FaultBarrier(self._note_fault)
        with barrier.guarded():
            self._begin()
        if self._monitor is not None:
            self._barrier = self._monitor.barrier
            try:
                with self._barrier.guarded():
                    self._hook.begin(self._optimizer)
            except BaseException:
                # Nobody leaves a block that was not entered.
                monitor, self._monitor = self._monitor, None
                hook, self._hook = self._hook, None
                try:
                    self._barrier.call(self._finish, monitor, hook, True)
                finally:
                    self._barrier.call(hook.leave)
                raise
        elif self._log is not None:
            with barrier.guarded():
                self._log.write_verdict(is_whole=True)
            with barrier.guarded():
                self._log.close()
        return self

    def _begin(self):
        on_break, on_nonfinite = self._actions
        is_writer, writer = is_chief(self._model), None
        if self._log_dir and is_writer:
            writer = SummaryWriter(self._log_dir, self._scalars)
        log = TrainingLog(self._model, num_updates, writer, optimizers=[])
        self._log = log
        log.not_checked = self._not_checked
        hook = self._hook = LoopHook(
            self._model, self._every, LEFT_OUT[on_nonfinite], log.optimizers
        )
        response = Response(
            log, on_break, self._expected, hook.stop, not is_writer
        )
        self._monitor = Monitor(
            hook,
            log,
            response,
            Symptoms(hook, log, self._thresholds, self._expected),
            BadSteps(hook, log),
            self._expected,
            on_nonfinite,
            self._every,
        )

    def _note_fault(self, reason):
        when = "before the first update"
        self._not_checked.append(fault_sentence(when, reason))

    def __exit__(self, kind, error, traceback):
        """Writes the last records and restores the optimizers."""
        monitor, self._monitor = self._monitor, None
        if monitor is None:
            return False
        is_stopped, is_explained = isinstance(error, LoopStopped), False
        try:
            with self._barrier.guarded():
                if error is None:
                    self._hook.read()
                    is_explained = bool(
                        self._hook.num_updates or monitor.explain_no_update()
                    )
                elif isinstance(error, Exception) and not is_stopped:
                    monitor.explain_step_error(error)
                    monitor.explain_failure(error)
        except LoopStopped:
            is_stopped = True
        finally:
            hook, self._hook = self._hook, None
            try:
                is_quiet = error is not None
                self._barrier.call(self._finish, monitor, hook, is_quiet)
            finally:
                self._barrier.call(hook.leave)
        self.stopped = is_stopped
        if error is None and not is_explained and self._barrier.is_open:
            why = _TRACED if hook.has_optimizer else _NO_OPTIMIZER
            text = _NOTHING.format(name=self._model.name, why=why)
            warnings.warn(text, UserWarning, stacklevel=2)
        if error is None or is_stopped:
            self._barrier.call(self._print_closing_line)
        return is_stopped and isinstance(error, (LoopStopped, type(None)))

    def _print_closing_line(self):
        log, where = self._log, "the `report` of this `watch`"
        if self._log_dir:
            where += f" or TensorBoard at {str(self._log_dir)!r}"
        line = closing_line(log.report, log.norms, log.num_records, where)
        print_line(line)

    def _finish(self, monitor, hook, is_quiet):
        # Ctrl-C in one of them must not keep the others from it.
        with contextlib.ExitStack() as last:
            last.callback(self._barrier.call, monitor.finish, not is_quiet)
            last.callback(self._barrier.call, monitor.write)
            last.callback(self._barrier.call, hook.end_recording)
