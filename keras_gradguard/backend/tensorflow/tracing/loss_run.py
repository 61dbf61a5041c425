"""Step 4: a loss as a function of its prediction, run on real numbers.

It runs op by op, so that a condition shows wherever it stands: in a branch,
in a `tf.function`, or in a Python `if`. What the loss gives per sample is
kept apart, and in float64 where the loss allows it.
"""

import contextlib
import dataclasses
import os
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.eager import (
    CUSTOM_GRADIENT,
    every_op_seen,
    functions_run_eagerly,
)
from keras_gradguard.backend.tensorflow.internals.randomness import (
    random_state_kept,
)
from keras_gradguard.backend.tensorflow.tracing.recorder import Recording
from keras_gradguard.backend.tensorflow.tracing.restore import (
    changes_state,
    examining,
)
from keras_gradguard.backend.tensorflow.tracing.step import trace_loss
from keras_gradguard.graph.ops import is_condition, writes_state
from keras_gradguard.graph.trace import LossFailed, NotAFunction, Run
from keras_gradguard.records.finding import Place
from keras_gradguard.source.frames import (
    PACKAGE,
    is_users,
    op_place,
    user_place,
)


class Conditions:
    """Reads, and if asked replaces, what conditions come to.

    Args:
        run: The `Run` to fill.
        forced: Key -> values to put in place of what comes out there.
    """

    def __init__(self, run, forced):
        self._run = run
        self._forced = forced
        self._counts = {}
        self._is_busy = False

    def see(self, op_type, inputs, attributes, outputs):
        """Takes in one op that has just run."""
        del attributes
        if self._is_busy or len(outputs) != 1:
            return
        kept = self._run.bools if is_condition(inputs, outputs) else None
        if op_type == "StopGradient":
            kept = self._run.stopped
        if kept is None:
            return
        where = _user_line()
        if where is None and kept is self._run.bools:
            return
        number = self._counts.get((where, op_type), 0)
        self._counts[where, op_type] = number + 1
        key = (where, op_type, number)
        kept[key] = outputs[0].numpy()
        if key in self._forced:
            self._is_busy = True
            instead = np.broadcast_to(self._forced[key], outputs[0].shape)
            # TensorFlow goes on with what it finds in this list.
            outputs[0] = tf.constant(instead, outputs[0].dtype)
            self._is_busy = False


def condition_keys(recording):
    """Maps each condition and `StopGradient` to what it is known by.

    Args:
        recording: A `Recording` of the same loss.
    """
    counts, keys = {}, {}
    for op in recording.ops:
        if op.type != "StopGradient" and not is_condition(
            op.inputs, op.outputs
        ):
            continue
        place = op_place(op)
        where = None if place.line is None else (place.file, place.line)
        if where is None and op.type != "StopGradient":
            continue
        number = counts.get((where, op.type), 0)
        counts[where, op.type] = number + 1
        keys[op] = (where, op.type, number)
    return keys


def _user_line():
    """The innermost `(file, line)` of the user's on the stack, or `None`."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(
        PACKAGE + os.sep
    ):
        frame = frame.f_back
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(PACKAGE + os.sep):
            return None
        if is_users(file):
            return file, frame.f_lineno
        frame = frame.f_back
    return None


@contextlib.contextmanager
def instructions_followed(path):
    """Writes down each step of the user's Python code.

    Args:
        path: A list to append `(code, instruction, line)`s to.
    """

    def step(frame, event, _):
        if event == "opcode":
            path.append((frame.f_code, frame.f_lasti, frame.f_lineno))
        return step

    def enter(frame, event, _):
        if event != "call" or not is_users(frame.f_code.co_filename):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return step

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(before)


@dataclasses.dataclass(frozen=True)
class CustomGradientCall:
    """One call of a function that brings its own gradient.

    Args:
        function: What `tf.custom_gradient` was put on.
        arguments: What it was called with.
        named: What it was called with by name.
        place: The user's line that called it.
    """

    function: object
    arguments: tuple
    named: dict
    place: Place

    @property
    def is_users(self):
        """Whether the function is the user's own."""
        code = getattr(self.function, "__code__", None)
        return code is None or is_users(code.co_filename)


@contextlib.contextmanager
def custom_gradients_seen(calls):
    """Appends a `HandMade` to `calls` for each that runs eagerly."""

    def see(frame, event, _):
        if event == "call" and frame.f_code is CUSTOM_GRADIENT:
            here = frame.f_locals
            place = user_place(_frames(frame))
            calls.append(
                CustomGradientCall(
                    here["f"], here["args"], here["kwargs"], place
                )
            )

    before = sys.gettrace()
    sys.settrace(see)
    try:
        yield
    finally:
        sys.settrace(before)


def _frames(frame):
    frames = []
    while frame is not None:
        code = frame.f_code
        frames.append((code.co_filename, frame.f_lineno, code.co_name))
        frame = frame.f_back
    return frames[::-1]


_LOW = (tf.float32, tf.float16, tf.bfloat16)


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
            with custom_gradients_seen(self.handmade), _op_by_op(see):
                self.value = self._call(self._y_pred)
        ops = self.recording.ops
        if any(writes_state(op) for op in ops):
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
            follow = instructions_followed(found.path)
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
        functions_run_eagerly(),
        every_op_seen(see),
    ):
        yield


def _moves(tensor):
    return isinstance(tensor, tf.Tensor) and tensor.dtype.is_floating


def _same(run, other):
    return np.array_equal(run.values, other.values, equal_nan=True)
