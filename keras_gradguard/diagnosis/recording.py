"""Step 4: run one training step op by op, and keep what every op did.

Functions, branches and loops run as plain eager ops, so that each op has its
values and the user's line, wherever the code stands.
"""

import contextlib
import dataclasses
import os
import typing

import keras
import tensorflow as tf

from keras_gradguard.diagnosis import (
    eager_internals,
    internals,
    keras_internals,
    source,
)
from keras_gradguard.diagnosis.addends import name_losses
from keras_gradguard.diagnosis.observer import Observer, tensors_of
from keras_gradguard.diagnosis.randomness import random_state_kept
from keras_gradguard.diagnosis.seen import Trace
from keras_gradguard.diagnosis.trace import optimizers_of
from keras_gradguard.diagnosis.untouched import untouched
from keras_gradguard.patch import replaced

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class Frame(typing.NamedTuple):
    """One frame of the stack that ran an op, as `tf.Operation` has it."""

    filename: str
    lineno: int
    name: str


@dataclasses.dataclass(eq=False)
class RanOp:
    """One op that ran.

    Args:
        number: Its place in the order of the ops.
        type: Type of the op, or the name of a custom gradient's function.
        attributes: Names and values in turns.
        inputs: Tensors that went in.
        outputs: Tensors that came out.
        traceback: `Frame`s, the outermost first.
        is_taped: Whether a gradient tape was recording.
        backward: The gradient function that the user gave, or `None` for
            the registered one.
        body: The graph of the `tf.function` that ran, `None` otherwise.
    """

    number: int
    type: str
    attributes: tuple
    inputs: tuple
    outputs: tuple
    traceback: tuple
    is_taped: bool = True
    backward: typing.Callable | None = None
    # As for an op of a graph, so that both are located alike.
    graph: None = None
    body: object = None


class Recording:
    """What one step did.

    Attributes:
        ops: The `RanOp`s in their order.
        trace: The `Trace` of the step: layers, losses, tape calls.
        applied: `(variables, gradients)` of each `optimizer.apply`.
        callers: The `Place` that called each.
        batch: The batch as the step got it.
    """

    def __init__(self, batch=None):
        self.ops = []
        self.trace = Trace(None)
        self.applied = []
        self.callers = []
        self.batch = batch
        self._makers = {}

    def maker(self, tensor):
        """Returns the op that made a tensor, `None` for what came in."""
        return self._makers.get(id(tensor))

    def layer_of(self, op):
        """Returns the path of the layer that an op ran in, or `None`."""
        return self.trace.layer_of(op, op.number)

    def see(self, op_type, inputs, attributes, outputs, backward=None):
        """Takes in one op that has just run."""
        op = RanOp(
            len(self.ops),
            op_type,
            attributes or (),
            tuple(inputs),
            tuple(outputs),
            _stack(),
            internals.tape_is_active(),
            backward,
        )
        self.ops.append(op)
        for tensor in op.outputs:
            self._makers[id(tensor)] = op

    def now(self):
        """Returns `(None, number of the next op)`, see `Observer`."""
        return None, len(self.ops)


def record_step(model, batch, weights=()):
    """Runs a training step of a model outside the training.

    Args:
        model: A compiled Keras model; it is left as it was.
        batch: The batch as `train_step` gets it, tensors.
        weights: `(variable, value)` pairs to run it with.

    Returns:
        A `Recording`; its `trace.error` is the exception that ended the
        step, or `None`.
    """
    recording = Recording(batch)
    with untouched(model), contextlib.ExitStack() as stack:
        for variable, value in weights:
            variable.assign(value)

        for optimizer in optimizers_of(model):
            apply = _instead_of_apply(optimizer, recording)
            stack.enter_context(replaced(optimizer, "apply", apply))
        _run(recording, lambda: model.train_step(batch))
    name_losses(model, recording.trace)
    return recording


def _instead_of_apply(optimizer, recording):
    def apply(grads, trainable_variables=None):
        variables = trainable_variables
        if variables is None:
            variables = keras_internals.variables_of(optimizer)
        recording.applied.append((list(variables), list(grads)))
        recording.callers.append(source.user_place(_stack()))

    return apply


def record_loss(loss, y_true, y_pred):
    """Runs one loss and its gradient.

    Args:
        loss: A `keras.losses.Loss`.
        y_true: Targets, tensors.
        y_pred: Predictions, tensors.

    Returns:
        A `Recording`; its one tape call asks for the predictions.
    """
    recording = Recording((y_true, y_pred))
    sources = [t for t in tensors_of(y_pred) if t.dtype.is_floating]

    def run():
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            value = loss(y_true, y_pred)
        recording.applied.append((sources, tape.gradient(value, sources)))

    with random_state_kept():
        _run(recording, run)
    return recording


def _run(recording, step):
    trace = recording.trace
    trace.batch = [tensor for _, tensor in flat_batch(recording.batch)]
    try:
        with (
            eager_internals.functions_run_eagerly(),
            eager_internals.every_op_seen(recording.see),
            _EagerObserver(recording),
        ):
            step()
    except Exception as error:  # noqa: BLE001
        trace.error = error


class _EagerObserver(Observer):
    """Sees custom gradients too: those tell the tape of themselves."""

    def __init__(self, recording):
        super().__init__(recording.trace, recording.now)
        self._recording = recording
        self._on_call[eager_internals.RECORD_OPERATION] = self._custom

    def _custom(self, frame):
        here = frame.f_locals
        if not tf.executing_eagerly():
            return
        self._recording.see(
            here["op_type"],
            here["input_tensors"],
            (),
            here["output_tensors"],
            here["backward_function"],
        )


def _stack():
    """The frames of the code that runs an op, the outermost first."""
    stack = internals.stack()
    frames = [Frame(f.filename, f.lineno, f.name) for f in stack]
    while frames and frames[-1].filename.startswith(_PACKAGE):
        frames.pop()
    return tuple(frames)


def flat_batch(batch):
    """Returns `(name, tensor)` of each part of a batch.

    Args:
        batch: As `train_step` gets it.
    """
    if isinstance(batch, tuple) and len(batch) <= 3:
        names = ("x", "y", "sample_weight")
        parts = keras.utils.unpack_x_y_sample_weight(batch)
    else:
        names, parts = ("x",), (batch,)
    return [
        (name, tensor)
        for name, part in zip(names, parts, strict=True)
        for tensor in tf.nest.flatten(part, expand_composites=True)
        if isinstance(tensor, tf.Tensor)
    ]
