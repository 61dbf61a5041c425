"""Who is measured: bare `fit`, the guard, and what people use today."""

import dataclasses
import tempfile
from collections.abc import Callable

import keras
import tensorflow as tf

from benchmarks.compared.models import batches
from keras_gradguard import GradHealthCallback


class Recipe(keras.callbacks.Callback):
    """What people paste: a second tape, and a scalar for each variable.

    Args:
        log_dir: Folder for TensorBoard.
        x: Inputs of the batch that the gradients are taken of.
        y: Its targets.
    """

    def __init__(self, log_dir, x, y):
        super().__init__()
        self._writer = tf.summary.create_file_writer(log_dir)
        self._x, self._y = x, y
        self._step = 0

    def on_train_batch_end(self, batch, logs=None):
        """Takes the gradients once more and writes their norms."""
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            y_pred = self.model(self._x, training=True)
            loss = self.model.compute_loss(self._x, self._y, y_pred)
        gradients = tape.gradient(loss, variables)
        with self._writer.as_default(step=self._step):
            for variable, gradient in zip(variables, gradients, strict=True):
                tf.summary.scalar(variable.path, tf.norm(gradient))
        self._step += 1


def _nothing(*arguments):
    return []


@dataclasses.dataclass(frozen=True)
class Contender:
    """Somebody who trains a model.

    Attributes:
        name: The name in the table.
        callbacks: Makes the callbacks of a log folder and a batch.
        prepare: Called with the log folder before the model is made.
        against: Name of the contender that it is compared with.
        is_apart: Whether it must run in a process of its own.
    """

    name: str
    callbacks: Callable = _nothing
    prepare: Callable = _nothing
    against: str = "bare"
    is_apart: bool = False

    def trainer(self, case):
        """Returns what a `Lane` calls to train a model.

        Args:
            case: The `Case` that makes the model.
        """

        def train(cycle):
            with tempfile.TemporaryDirectory() as log_dir:
                self.prepare(log_dir)
                model = case.model()
                x, y = batches(model, case.batch_size)
                data = tf.data.Dataset.from_tensor_slices((x, y)).repeat()
                batch = tf.constant(x[0]), tf.constant(y[0])
                callbacks = self.callbacks(log_dir, batch)
                model.fit(
                    data,
                    steps_per_epoch=10**9,
                    shuffle=False,
                    verbose=0,
                    callbacks=[cycle, *callbacks],
                )

        return train


def _check_numerics(log_dir):
    tf.debugging.enable_check_numerics()


def _debugger(log_dir):
    tf.debugging.experimental.enable_dump_debug_info(
        log_dir, tensor_debug_mode="CONCISE_HEALTH"
    )


GUARDED, EVERY_STEP = "guarded", "guarded, every=1"
CONTENDERS = (
    Contender("bare"),
    # What differs between two that are the same is noise.
    Contender("bare again"),
    Contender(GUARDED, lambda log_dir, _: [GradHealthCallback(log_dir)]),
    Contender(EVERY_STEP, lambda log_dir, _: [GradHealthCallback(log_dir, 1)]),
    Contender("tape recipe", lambda log_dir, b: [Recipe(log_dir, *b)]),
    Contender(
        "TensorBoard(update_freq=10)",
        lambda log_dir, _: [
            keras.callbacks.TensorBoard(log_dir, update_freq=10)
        ],
    ),
    Contender("bare, apart", is_apart=True),
    Contender(
        "check_numerics, apart",
        prepare=_check_numerics,
        against="bare, apart",
        is_apart=True,
    ),
    Contender(
        "Debugger V2, apart",
        prepare=_debugger,
        against="bare, apart",
        is_apart=True,
    ),
)


def contender_of(name):
    """Returns the contender of a name.

    Args:
        name: One of those in `CONTENDERS`.
    """
    return {contender.name: contender for contender in CONTENDERS}[name]
