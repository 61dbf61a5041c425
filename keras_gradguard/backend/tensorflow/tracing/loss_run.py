"""A loss as a function of its prediction, run on real numbers.

It runs op by op, so that a condition shows wherever it stands: in a branch,
in a `tf.function`, or in a Python `if`. What the loss gives per sample is
kept apart, and in float64 where the loss allows it.
"""

import contextlib
import dataclasses
import inspect
import os
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.batches import tensors_of
from keras_gradguard.backend.tensorflow.internals.eager import (
    CUSTOM_GRADIENT,
    every_op_seen,
    functions_run_eagerly,
)
from keras_gradguard.backend.tensorflow.internals.python_hooks import (
    calls_traced,
)
from keras_gradguard.backend.tensorflow.internals.randomness import (
    random_state_kept,
)
from keras_gradguard.backend.tensorflow.tracing.graphs import traced_graph
from keras_gradguard.backend.tensorflow.tracing.recorder import Recording
from keras_gradguard.backend.tensorflow.tracing.restore import examining
from keras_gradguard.backend.tensorflow.tracing.step import trace_loss
from keras_gradguard.graph.ops import (
    Context,
    is_condition,
    is_step_function,
    writes_state,
)
from keras_gradguard.graph.trace import LossFailed, NotAFunction, Run
from keras_gradguard.records.finding import Place
from keras_gradguard.source.frames import (
    PACKAGE,
    is_own_fault,
    is_users,
    op_place,
    user_place,
)


class Conditions:
    """Reads, and if asked replaces, what conditions come to.

    Args:
        run: The `Run` to fill.
        forced: Key -> values to put in place of what comes out there.
        step_types: Op types that are step functions of the prediction.
    """

    def __init__(self, run, forced, step_types=()):
        self._run = run
        self._forced = forced
        self._step_types = step_types
        self._counts = {}
        self._is_busy = False

    def see(self, op_type, inputs, attributes, outputs):
        """Takes in one op that has just run."""
        del attributes
        if self._is_busy or len(outputs) != 1:
            return
        kept = None
        if _makes_truth(inputs, outputs):
            kept = self._run.bools
        elif op_type in self._step_types:
            kept = self._run.steps
        elif op_type == "StopGradient":
            kept = self._run.stopped
        if kept is None:
            return
        where = _user_line()
        if where is None and kept is not self._run.stopped:
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


def _makes_truth(inputs, outputs):
    """Whether an op makes truth values of numbers, see `is_condition`."""
    return (
        outputs[0].dtype == tf.bool
        and len(inputs) > 0
        and all(tensor.dtype != tf.bool for tensor in inputs)
    )


def _condition_keys(graph, step_types):
    """Maps each condition, step and `StopGradient` to what it is known by.

    Args:
        graph: The `Graph` of a recorded run of the loss.
        step_types: Op types that are step functions.
    """
    counts, keys = {}, {}
    for op in graph.ops:
        is_kept = op.type == "StopGradient" or op.type in step_types
        if not is_kept and not is_condition(op):
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

    with calls_traced(enter):
        yield


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

    def alone(self, is_dependent):
        """Returns the function alone, as a function of what depends on it.

        Args:
            is_dependent: Whether a native tensor depends on the prediction.

        Returns:
            A `CustomGradientAlone`, `None` if no float of it does.
        """
        flat = tf.nest.flatten((self.arguments, self.named))
        places = [
            n
            for n, value in enumerate(flat)
            if is_dependent(value) and value.dtype.is_floating
        ]
        return CustomGradientAlone(self, flat, places) if places else None


# Whoever clips what comes in does so on purpose: nothing large comes in.
_SMALL = 1e-3


class CustomGradientAlone:
    """A function that brings its own gradient, run by itself.

    Args:
        call: The `CustomGradientCall`.
        flat: What it was called with, flat.
        places: Which of these move.

    Attributes:
        start: The values that these had, arrays.
    """

    def __init__(self, call, flat, places):
        self._call = call
        self._flat = flat
        self._places = places
        self.start = [flat[n].numpy() for n in places]

    def _results(self, arrays, function):
        moved = list(self._flat)
        for n, array in zip(self._places, arrays, strict=True):
            moved[n] = tf.convert_to_tensor(array, self._flat[n].dtype)
        arguments, named = tf.nest.pack_sequence_as(
            (self._call.arguments, self._call.named), moved
        )
        return function(*arguments, **named)

    def outputs(self, arrays):
        """Returns what the function gives, arrays."""
        found, _ = self._results(arrays, self._call.function)
        return [tensor.numpy() for tensor in tensors_of(found)]

    def gradients(self, weigh):
        """Returns the gradient of a weighed sum of its outputs.

        Args:
            weigh: Returns the weights of an output, by its shape.

        Returns:
            `(weights, gradients)`: an array for each output and for each of
            `start`, `None` where there is none.
        """
        function = tf.custom_gradient(self._call.function)
        with tf.GradientTape() as tape:
            inputs = [tf.convert_to_tensor(part) for part in self.start]
            tape.watch(inputs)
            out = self._results(inputs, function)
        out = [t for t in tensors_of(out) if t.dtype.is_floating]
        weights = [weigh(tuple(o.shape)) for o in out]
        seeds = [
            tf.constant(_SMALL * w, o.dtype)
            for w, o in zip(weights, out, strict=True)
        ]
        found = tape.gradient(out, inputs, output_gradients=seeds)
        return weights, [
            None if g is None else tf.convert_to_tensor(g).numpy() / _SMALL
            for g in found
        ]


@contextlib.contextmanager
def custom_gradients_seen(calls):
    """Appends a `CustomGradientCall` to `calls` for each that runs eagerly."""

    def see(frame, event, _):
        if event == "call" and frame.f_code is CUSTOM_GRADIENT:
            here = frame.f_locals
            place = user_place(_frames(frame))
            calls.append(
                CustomGradientCall(
                    here["f"], here["args"], here["kwargs"], place
                )
            )

    with calls_traced(see):
        yield


def _frames(frame):
    frames = []
    while frame is not None:
        code = frame.f_code
        frames.append((code.co_filename, frame.f_lineno, code.co_name))
        frame = frame.f_back
    return frames[::-1]


def changes_state(trace):
    """Returns whether a traced loss changes anything.

    Args:
        trace: A `Seen`, also of a loss that fails further on.
    """
    return any(True for _ in _writing(trace))


@contextlib.contextmanager
def state_kept(trace):
    """Puts back what a traced loss writes to while the block runs.

    Args:
        trace: The `Seen`.
    """
    outer = {inner.name: handle for handle, inner in trace.graph.captures}
    values = {}
    for context, op in _writing(trace):
        tensor = op.inputs[0]
        while context.parent is not None:
            origins = context.origins(tensor)
            if not origins:
                break
            context, tensor = origins[0].context, origins[0].tensor
        handle = outer.get(tensor.native.name)
        if handle is not None and op.type.startswith("Assign"):
            dtype = op.native.get_attr("dtype")
            value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype)
            values[id(handle)] = handle, tf.identity(value)
    try:
        yield
    finally:
        for handle, value in values.values():
            tf.raw_ops.AssignVariableOp(resource=handle, value=value)


def _writing(trace):
    for context in Context(traced_graph(trace.graph)).everything():
        for op in context.graph.ops:
            if writes_state(op):
                yield context, op


_LOW = ("float32", "float16", "bfloat16")


class LossRun:
    """A loss with its targets, ready to be run on any prediction.

    Args:
        loss: A `keras.losses.Loss`.
        y_true: Its targets: tensors or arrays, or a nest of them.
        y_pred: The prediction to start from, alike.
        seen: What `trace_loss` has seen of it; by default it is traced.

    Attributes:
        start: The float tensors of the prediction, flat NumPy arrays.
        targets: The float tensors of the targets, flat NumPy arrays.
        base: The `Run` on `start`.
        graph: The `Graph` of the run on `start`.
        tensors: The `Tensor`s that this run started from.
        value: The one that it returned, `None` if it is none.
        gradients: The gradient of its sum by `start`, arrays or `None`.
        is_double: Whether all of it is computed in float64.
        dependent: The `Tensor`s that the prediction made, itself included.
        handmade: The `CustomGradientCall`s of it.
        conditions: Key in `Run.bools`, `Run.steps` or `Run.stopped` of each
            condition, step function and `StopGradient`, by its `Op`.
        has_prints: Whether each run prints something.

    Raises:
        NotAFunction: If the values are not a function of the prediction
            alone: random, or with state or a log that each call changes.
        LossFailed: If the loss itself raises.
    """

    def __init__(self, loss, y_true, y_pred, seen=None):
        own = type(loss).call is not keras.losses.Loss.call
        self._function = loss.call if own else loss
        self._given = y_true, y_pred
        if changes_state(seen or trace_loss(loss, y_true, y_pred)):
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
        self._moving = [t for t in keras.tree.flatten(y_pred) if _moves(t)]
        self.start = [t.numpy() for t in self._moving]
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
        recording, self.handmade = Recording(), []
        with tf.GradientTape(True, watch_accessed_variables=False) as tape:
            tape.watch(self._moving)
            with (
                custom_gradients_seen(self.handmade),
                _op_by_op(recording.add_op),
            ):
                value = self._call(self._y_pred)
        self.graph = recording.graph
        if any(writes_state(op) for op in self.graph.ops):
            raise NotAFunction
        self.has_prints = any(
            op.type.startswith("Print") for op in self.graph.ops
        )
        gradients = [None] * len(self._moving)
        if isinstance(value, tf.Tensor) and _moves(value):
            with _its_own_failure():
                gradients = tape.gradient(value, self._moving)
        self._tape = tape
        self.tensors = [self.graph.known(t) for t in self._moving]
        self.value = self.graph.tensor(value)
        made = self.graph.descendants(self.tensors)
        self._step_types = {
            op.type
            for op in dict.fromkeys(tensor.op for tensor in made)
            if op_place(op).line is not None and is_step_function(op)
        }
        self.conditions = _condition_keys(self.graph, self._step_types)
        self.gradients = [_array(g) for g in gradients]

    def run(self, prediction, forced=None, with_path=False):
        """Runs the loss on a prediction.

        Args:
            prediction: Arrays in the order of `start`.
            forced: Values of `Run.bools`, `Run.steps` and `Run.stopped` to
                put in place of what comes out there.
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
        seen = Conditions(found, forced or {}, self._step_types)
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
        made = self.graph.descendants(self.tensors)
        self.dependent = {*self.tensors, *made}
        if any(tensor.dtype in _LOW for tensor in made):
            self.is_double = False

    def is_dependent(self, native):
        """Returns whether a native tensor was made of the prediction."""
        return self.graph.tensor(native) in self.dependent

    def is_hidden(self, op):
        """Returns whether the tape sees nothing of a recorded op.

        Args:
            op: An `Op`; inside a hand-written gradient the tape sees only
                that.
        """
        inside = CUSTOM_GRADIENT.co_filename, CUSTOM_GRADIENT.co_name
        return not op.is_taped or any(
            (file, function) == inside for file, _, function in op.frames
        )

    def gradients_of(self, tensor):
        """Returns the gradients of one tensor of the recorded run.

        Args:
            tensor: A `Tensor`.

        Returns:
            An array for each of `start`, `None` where there is none; `None`
            if an op on the way has no gradient.
        """
        try:
            found = self._tape.gradient(tensor.native, self._moving)
        except LookupError:
            return None
        return [_array(gradient) for gradient in found]

    def op_alone(self, op):
        """Returns one op as a function of what depends on the prediction.

        Args:
            op: An `Op` of `graph`.

        Returns:
            `(values, start, gradients)`: a function of arrays, what it was
            given, and the gradients there; `None` if it cannot be run alone.
        """
        return _alone(op, self.dependent)


_NOT_ALONE = (LookupError, TypeError, ValueError, tf.errors.OpError)


def _alone(op, dependent):
    ran = op.native
    places = [
        n
        for n, tensor in enumerate(op.inputs)
        if tensor in dependent and tensor.native.dtype.is_floating
    ]
    function = getattr(tf.raw_ops, op.type, None)
    if not places or function is None:
        return None
    pairs = zip(ran.attributes[::2], ran.attributes[1::2], strict=True)
    known = inspect.signature(function).parameters
    named = {key: value for key, value in pairs if key in known}
    inputs = [key for key in known if key not in named and key != "name"]
    if len(inputs) != len(ran.inputs):
        return None

    def result(parts):
        tensors = list(ran.inputs)
        for n, part in zip(places, parts, strict=True):
            tensors[n] = tf.convert_to_tensor(part, tensors[n].dtype)
        out = function(**dict(zip(inputs, tensors, strict=True)), **named)
        return tf.nest.flatten(out)[0]

    start = [ran.inputs[n].numpy() for n in places]
    if not ran.outputs or not ran.outputs[0].dtype.is_floating:
        return None
    try:
        with tf.GradientTape() as tape:
            parts = [tf.constant(part) for part in start]
            tape.watch(parts)
            out = result(parts)
        gradients = tape.gradient(out, parts)
    except _NOT_ALONE:
        # Not an op that can be run by itself: it is not accused.
        return None
    gradients = [_array(gradient) for gradient in gradients]
    return lambda parts: result(parts).numpy().ravel(), start, gradients


def _array(gradient):
    return None if gradient is None else tf.convert_to_tensor(gradient).numpy()


@contextlib.contextmanager
def _its_own_failure():
    """Raises what the code of the loss raises, or of its slope."""
    try:
        yield
    except Exception as error:
        if is_own_fault(error):
            raise
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
