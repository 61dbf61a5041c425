"""Door 2: the callback that decides when the guard looks and records."""

import keras

from keras_gradguard.door import Door
from keras_gradguard.errors import checked_action
from keras_gradguard.expected import Expected
from keras_gradguard.guard import Guard
from keras_gradguard.logbook import Logbook
from keras_gradguard.records import Report
from keras_gradguard.report.summaries import SummaryWriter


class GradHealthCallback(keras.callbacks.Callback):
    """Finds broken gradients while a model trains, and records their norms.

    On the first batch, before the first weight update, and at every later
    trace of the training step, each trainable variable must get a gradient.
    One that gets none is traced back to the op and the source line that cut
    it. The L2 norm of every variable's gradient is taken in the training
    step itself, unscaled and before clipping.

    Args:
        log_dir: Folder for TensorBoard; the run is `<log_dir>/gradients`.
            `None` writes nothing.
        every: Steps between two written records; the first step is one.
        on_break: What a broken gradient does: `"warn"` (once for each cut),
            `"raise"` a `GradientBreakError`, or `"stop"` the training. Where
            no variable gets a gradient Keras cannot go on: `"warn"` then
            raises `GradientBreakError` too.
        expect: Regular expressions; a variable whose path one of them finds
            (`re.search`) is meant to get no gradient.

    Raises:
        ValueError: If an argument is not as described.

    Example:
    ```python
    callback = GradHealthCallback(log_dir="logs")
    model.fit(x, y, callbacks=[callback])
    print(callback.report)
    ```
    """

    def __init__(self, log_dir=None, every=10, on_break="warn", *, expect=()):
        super().__init__()
        is_count = isinstance(every, int) and not isinstance(every, bool)
        if not is_count or every < 1:
            raise ValueError(
                "`every` must be an integer of at least 1, the number of "
                f"steps between two written records. Received: every={every!r}"
            )
        self.every = every
        self.on_break = checked_action("on_break", on_break)
        self.log_dir = log_dir
        self.expect = expect
        self._expected = Expected(expect)
        self._logbook = None
        self._guard = None
        self._num_steps = 0

    @property
    def report(self):
        """The live `Report`: what is broken and each variable's gradient."""
        return self._logbook.report if self._logbook is not None else Report()

    def on_train_begin(self, logs=None):
        """Hooks the training step and starts a new report."""
        self.on_train_end()
        writer = SummaryWriter(self.log_dir) if self.log_dir else None
        self._num_steps = 0
        with Door().guarded():
            self._logbook = Logbook(self.model, writer)
            self._guard = Guard(
                self.model, self._logbook, self.on_break, self._expected
            )

    def on_epoch_begin(self, epoch, logs=None):
        """Notes the epoch for the diagnoses to come."""
        if self._logbook is not None:
            self._logbook.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        """Lets the next call of the train function be guarded."""
        if self._guard is not None:
            self._guard.expect_step()

    def on_train_batch_end(self, batch, logs=None):
        """Writes a record when one is due; looks twice at the first."""
        if self._guard is not None and self._num_steps % self.every == 0:
            try:
                self._guard.record(check_first=self._num_steps == 0)
            except BaseException:
                self.on_train_end()
                raise
        self._num_steps += 1

    def on_train_end(self, logs=None):
        """Leaves the model as it was and closes the event file."""
        if self._guard is not None:
            self._guard.finish()
            self._guard = None
