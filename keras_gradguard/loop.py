"""The context manager that watches a custom training loop."""

import warnings

from keras_gradguard import backend
from keras_gradguard.errors import (
    ACTIONS,
    FaultBarrier,
    LoopStopped,
    checked_action,
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

_NO_STEP = "The `with` block of `watch` has not begun."
_NOTHING = (
    "watch({name}) has seen no update of the model's variables, so nothing "
    "was measured and nothing was checked. {why}"
)
_TRACED = (
    "A @tf.function that was called before the block runs as it was traced "
    "then. Enter `watch` before the first call of the training step, or make "
    "the step anew inside the block: `step = tf.function(step.python_function)`"
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
    """Gives a custom training loop what `GradHealthCallback` gives `fit`.

    A step is one call of `optimizer.apply` (or `apply_gradients`) that trains
    a variable of the model; other models and optimizers are left alone. In
    the first step each trainable variable must get a gradient; one that gets
    none is traced back to the op and the source line that cut it, before the
    first update. The norms are those of the gradients that the loop gives
    the optimizer, unscaled and before the optimizer clips them.

    Enter the block before the first call of a training step that is a
    `tf.function`: one that was traced before cannot be seen, and the block
    says so when it ends. In such a step Python does not run; its records
    wait in the graph (at most 512) and are written by `health.step()`, which
    may be called in each turn of the loop, or when the block ends. An eager
    loop needs no such call. A `tf.function` that was traced in the block
    measures nothing any more after it.

    With `on_nonfinite` other than `"warn"` the weights stay as they were
    before the bad update. Where a NaN begins is told if it is in the first
    step of an eager loop; later steps cannot be run once more. Nor are
    gradients that stay zero explained. With several replicas the norms are
    those of the gradients that they have added up, and every update is made.

    Args:
        model: The Keras model to watch; it need not be compiled or built.
        log_dir: As for `GradHealthCallback`. On several machines only the
            chief measures, writes and warns.
        every: Steps between two written records; the first step is one.
        on_break: What a missing gradient does: `"warn"`, `"raise"` a
            `GradientBreakError`, or `"stop"`: leave the block before the
            update, without an exception; the code behind it runs on. Where
            no variable gets a gradient Keras cannot go on: `"warn"` then
            raises `GradientBreakError` too.
        on_nonfinite: What a gradient that is not finite does: `"warn"`,
            `"raise"`, `"stop"` or `"skip"` (that update is not made). In a
            compiled step `"raise"` and `"stop"` act at the next
            `health.step()`; until then no update is made.
        expect: As for `GradHealthCallback`.
        thresholds: As for `GradHealthCallback`.
        optimizer: The Keras optimizer of the loop, or a list of them. By
            default all that are alive as the block begins, and those that
            are made in it before the first step is done.
        scalars: As for `GradHealthCallback`, but for `"histograms"`.

    Returns:
        A `Watch`, to be used in a `with` statement.

    Raises:
        ValueError: If an argument is not as described.
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
        log_dir,
        checked_every(every),
        checked_action("on_break", on_break),
        checked_action("on_nonfinite", on_nonfinite, (*ACTIONS, "skip")),
        Expected(expect),
        thresholds_of(thresholds),
        optimizer,
        checked_level(scalars, has_histograms=False),
    )


class Watch:
    """Watches a model while its `with` block runs, see `watch`.

    Args:
        model: The Keras model.
        log_dir: Folder for TensorBoard, or `None`.
        every: Steps between two records.
        on_break: `"warn"`, `"raise"` or `"stop"`.
        on_nonfinite: The same, or `"skip"`.
        expected: The `Expected` variables without a gradient.
        thresholds: The `Thresholds`.
        optimizer: An optimizer, several, or `None` to find them.
        scalars: Which curves are written.

    Attributes:
        stopped: Whether `"stop"` has ended the block.
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
        self._not_checked = [_NO_STEP]

    @property
    def report(self):
        """The live `Report`: what is broken and each variable's gradient."""
        if self._log is None:
            return Report(not_checked=" ".join(self._not_checked) or None)
        return self._log.report

    def step(self):
        """Writes what a compiled step has measured, and acts on it.

        It may be called in each turn of the loop; when no record is due
        there is next to nothing to do.

        Raises:
            GradientBreakError: If something is wrong and is to be raised.
        """
        if self._monitor is not None:
            self._hook.read()

    def __enter__(self):
        """Hooks the optimizers and looks at the first step."""
        if self._monitor is not None:
            raise RuntimeError("this `watch` runs already; make another one")
        self.stopped = False
        self._log, self._not_checked = None, []
        barrier = FaultBarrier(self._note_fault)
        with barrier.guarded():
            self._begin()
        if self._monitor is not None:
            self._hook.begin(self._optimizer)
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
        """Leaves everything as it was; the last records are written."""
        monitor, self._monitor = self._monitor, None
        if monitor is None:
            return False
        is_stopped = isinstance(error, LoopStopped)
        try:
            if error is None:
                self._hook.read()
            elif isinstance(error, Exception) and not is_stopped:
                monitor.explain_step_error(error)
                monitor.explain_failure(error)
        except LoopStopped:
            is_stopped = True
        finally:
            self._finish(monitor, error is not None)
        self.stopped = is_stopped
        if error is None or is_stopped:
            self._print_closing_line()
        return is_stopped and isinstance(error, (LoopStopped, type(None)))

    def _print_closing_line(self):
        with FaultBarrier(self._note_fault).guarded():
            log, where = self._log, "the `report` of this `watch`"
            if self._log_dir:
                where += f" or TensorBoard at {self._log_dir!r}"
            line = closing_line(log.report, log.norms, log.num_records, where)
            print_line(line)

    def _finish(self, monitor, is_quiet):
        hook, self._hook = self._hook, None
        hook.end_recording()
        monitor.write()
        monitor.finish(is_whole=not is_quiet)
        if hook.num_updates or is_quiet or not hook.barrier.is_open:
            return
        why = _TRACED if hook.has_optimizer else _NO_OPTIMIZER
        text = _NOTHING.format(name=self._model.name, why=why)
        warnings.warn(text, UserWarning, stacklevel=3)
