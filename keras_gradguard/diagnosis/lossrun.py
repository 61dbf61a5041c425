"""Step 4: a loss as a function of its prediction, run on real numbers.

It runs op by op, so that a condition shows wherever it stands: in a branch,
in a `tf.function`, or in a Python `if`. What the loss gives per sample is
kept apart, and in float64 where the loss allows it.
"""

import contextlib
import dataclasses

import keras
import numpy as np
import tensorflow as tf

from keras_gradguard.diagnosis import eager_internals
from keras_gradguard.diagnosis.conditions import Conditions, followed
from keras_gradguard.diagnosis.handmade import handmade_seen
from keras_gradguard.diagnosis.randomness import random_state_kept
from keras_gradguard.diagnosis.recording import Recording
from keras_gradguard.diagnosis.trace import examining, trace_loss
from keras_gradguard.diagnosis.written import changes_state, writes

_LOW = (tf.float32, tf.float16, tf.bfloat16)


@dataclasses.dataclass
class Run:
    """What one run of a loss has shown.

    Args:
        values: The values per sample, flat, in float64.
        bools: Key of each condition on a user's line -> its values.
        stopped: Key of each `StopGradient` -> its output.
        path: Where the Python code went; empty unless asked for.
    """

    values: np.ndarray
    bools: dict
    stopped: dict
    path: list = dataclasses.field(default_factory=list)


class LossRun:
    """A loss with its targets, ready to be run on any prediction.

    Args:
        loss: A `keras.losses.Loss`.
        y_true: Its targets: tensors or arrays, or a nest of them.
        y_pred: The prediction to start from, alike.

    Attributes:
        start: The float tensors of the prediction, flat NumPy arrays.
        targets: The float tensors of the targets, flat NumPy arrays.
        base: The `Run` on `start`.
        recording: All ops of the run on `start`.
        tensors: The tensors that the recorded run started from.
        value: What the recorded run returned.
        tape: What the tape has seen of it, to be asked more than once.
        gradients: The gradient of its sum by `start`, arrays or `None`.
        is_double: Whether all of it is computed in float64.
        dependent: The ids of the recorded tensors that the prediction made.
        handmade: The `HandMade` gradients that it called.
        has_prints: Whether each run prints something.

    Raises:
        NotAFunction: If the values are not a function of the prediction
            alone: random, or with state or a log that each call changes.
        LossFailed: If the loss itself raises.
    """

    def __init__(self, loss, y_true, y_pred):
        own = type(loss).call is not keras.losses.Loss.call
        self._function = loss.call if own else loss
        self._given = y_true, y_pred
        if changes_state(trace_loss(loss, y_true, y_pred)):
            raise NotAFunction
        dtypes = dict.fromkeys(("float64", getattr(loss, "dtype", "float32")))
        for dtype in dtypes:
            self._dtype = dtype
            try:
                with random_state_kept():
                    self._start()
                break
            except LossFailed:
                if dtype != "float64" or len(dtypes) == 1:
                    raise
        self.is_double = dtype == "float64"
        self._find_dependent()

    def _start(self):
        y_true, y_pred = keras.tree.map_structure(self._tensor, self._given)
        self._y_true, self._y_pred = y_true, y_pred
        self.tensors = [t for t in keras.tree.flatten(y_pred) if _moves(t)]
        self.start = [t.numpy() for t in self.tensors]
        flat = keras.tree.flatten(y_true)
        self.targets = [t.numpy() for t in flat if _moves(t)]
        self._record()
        self.base = self.run(self.start)
        if not _same(self.base, self.run(self.start)):
            raise NotAFunction

    def _tensor(self, value):
        if value is None or isinstance(value, (tf.RaggedTensor, str)):
            raise NotAFunction
        return keras.ops.convert_to_tensor(value, dtype=self._dtype)

    def _record(self):
        self.recording, self.handmade = Recording(), []
        see = self.recording.see
        with tf.GradientTape(True, watch_accessed_variables=False) as tape:
            tape.watch(self.tensors)
            with handmade_seen(self.handmade), _op_by_op(see):
                self.value = self._call(self._y_pred)
        ops = self.recording.ops
        if any(writes(op) for op in ops):
            raise NotAFunction
        self.has_prints = any(op.type.startswith("Print") for op in ops)
        gradients = [None] * len(self.tensors)
        if isinstance(self.value, tf.Tensor) and _moves(self.value):
            with _its_own_failure():
                gradients = tape.gradient(self.value, self.tensors)
        self.tape = tape
        self.gradients = [
            g if g is None else tf.convert_to_tensor(g).numpy()
            for g in gradients
        ]

    def run(self, prediction, forced=None, with_path=False):
        """Runs the loss on a prediction.

        Args:
            prediction: Arrays in the order of `start`.
            forced: Values of `Run.bools` and `Run.stopped` to put in place
                of what comes out there.
            with_path: Whether to follow the Python code.

        Returns:
            A `Run`.
        """
        moved = iter(prediction)
        y_pred = keras.tree.map_structure(
            lambda t: tf.constant(next(moved), t.dtype) if _moves(t) else t,
            self._y_pred,
        )
        found = Run(np.zeros(0), {}, {})
        seen = Conditions(found, forced or {})
        follow = contextlib.nullcontext()
        if with_path:
            follow = followed(found.path)
        with _op_by_op(seen.see), follow:
            values = self._call(y_pred)
            found.values = np.ravel(np.asarray(values, np.float64))
        return found

    def _call(self, y_pred):
        with _its_own_failure():
            return self._function(self._y_true, y_pred)

    def _find_dependent(self):
        self.dependent = {id(t) for t in self.tensors}
        for op in self.recording.ops:
            if any(id(t) in self.dependent for t in op.inputs):
                self.dependent |= {id(t) for t in op.outputs}
                if any(t.dtype in _LOW for t in op.outputs):
                    self.is_double = False


class NotAFunction(Exception):
    """The same prediction does not always give the same values."""


class LossFailed(Exception):
    """The loss itself raises, see `__cause__`."""


@contextlib.contextmanager
def _its_own_failure():
    """Raises what the code of the loss raises, or of its slope."""
    try:
        yield
    except Exception as error:
        raise LossFailed(str(error)) from error


@contextlib.contextmanager
def _op_by_op(see):
    with (
        examining(),
        eager_internals.functions_run_eagerly(),
        eager_internals.every_op_seen(see),
    ):
        yield


def _moves(tensor):
    return isinstance(tensor, tf.Tensor) and tensor.dtype.is_floating


def _same(run, other):
    return np.array_equal(run.values, other.values, equal_nan=True)
