"""The weights and the batch of the first bad step, kept until read.

They are copied in the graph, and only when a step is bad; until then they
take no memory, except under XLA, whose memory is planned before.
"""

import collections

import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.functions import (
    is_compiled_here,
)
from keras_gradguard.backend.tensorflow.internals.graphs import (
    fetched_around,
    guard_variables,
    rarely,
)
from keras_gradguard.backend.tensorflow.internals.variables import (
    num_elements,
    read,
)
from keras_gradguard.model.layers import state_of
from keras_gradguard.records.kinds import MOST_BYTES

# Key of the batch among a step's logs, on its way out.
CHANNEL = "gradguard"


class BatchKeeper:
    """Keeps a batch, or one replica's share of it.

    A variable takes a tensor without copying it; as an output of the step
    each tensor would cost Keras some 50 microseconds to unpack. XLA would
    compile once more for a buffer of another shape, so there it is filled in
    the graph around the step; or else the batch is an output.

    Args:
        is_xla: Whether the step is compiled by XLA.
        is_alone: Whether one replica trains.
    """

    def __init__(self, is_xla, is_alone):
        self._is_room = not is_xla
        self._is_sent = is_xla and is_alone
        self._buffers = self._taken = None

    def store(self, batch):
        """Adds the ops that keep a batch.

        Args:
            batch: The tensors of the batch, flat.
        """
        if self._is_room:
            self._fill(batch)

    def _fill(self, batch):
        dtypes = [tensor.dtype for tensor in batch]
        if self._buffers is None or dtypes != [r.dtype for r in self._buffers]:
            with guard_variables():
                self._buffers = [_buffer(dtype) for dtype in dtypes]
        for buffer, tensor in zip(self._buffers, batch, strict=True):
            buffer.assign(tensor)

    def reset(self):
        """Lets go of the batch."""
        self._taken = None
        for buffer in self._buffers or ():
            buffer.assign(tf.zeros([0], buffer.dtype))

    def send(self, batch, logs):
        """Adds a batch to the logs of its step, if that is its way out.

        Args:
            batch: The tensors of the batch, flat.
            logs: A dict.
        """
        if not self._is_sent:
            return
        fetched = fetched_around(batch)
        if fetched is None:
            logs[CHANNEL] = tuple(batch)
            return
        with fetched[0].graph.as_default():
            self._fill(fetched)

    def take(self, logs):
        """Takes a batch out of what the train function has returned."""
        if self._is_sent:
            self._taken = logs.pop(CHANNEL, None)

    def read(self):
        """Returns the tensors of the batch, flat, or `None` before it."""
        if self._buffers is None:
            return self._taken
        return [tf.convert_to_tensor(buffer) for buffer in self._buffers]


def _buffer(dtype):
    empty, shape = tf.zeros([0], dtype), tf.TensorShape(None)
    return tf.Variable(empty, shape=shape, trainable=False)


class Snapshot:
    """Keeps one step's weights and batch until they have been read.

    Args:
        model: The model; its weights and random seeds are kept.
        is_xla: Whether the step is compiled by XLA.
        is_batch_kept: Whether the batch is to be kept as well.
    """

    def __init__(self, model, is_xla, is_batch_kept):
        self._model = model
        self._variables = None
        self._is_planned = is_xla
        self._is_batch_kept = is_batch_kept
        self._weights, self._batch, self._begun = None, None, {}
        self._eager = {}
        self.is_possible = True
        with guard_variables():
            self._state = tf.Variable([False, False], trainable=False)

    def _make_buffer(self):
        # A model may be built no sooner than in its first step.
        self._variables = state_of(self._model)
        sizes = collections.Counter()
        for variable in self._variables:
            sizes[tf.as_dtype(variable.dtype)] += num_elements(variable)
        size = sum(dtype.size * number for dtype, number in sizes.items())
        # XLA needs the buffer beforehand.
        self.is_possible = not self._is_planned or size <= MOST_BYTES
        if self.is_possible:
            # One for all: each buffer is one more input of the step.
            self._weights = {
                dtype: self._buffer([number], dtype)
                for dtype, number in sizes.items()
            }

    def _of(self, dtype):
        """The variables of one dtype."""
        return [v for v in self._variables if tf.as_dtype(v.dtype) == dtype]

    def _buffer(self, shape, dtype):
        is_planned = self._is_planned
        with guard_variables():
            return tf.Variable(
                tf.zeros(tuple(shape) if is_planned else [0], dtype),
                shape=tuple(shape) if is_planned else tf.TensorShape(None),
                trainable=False,
            )

    def reset(self):
        """Lets go of what was kept, where buffers can be made again."""
        self._state.assign([False, False])
        buffers = [*(self._weights or {}).values(), *(self._batch or ())]
        for buffer in () if self._is_planned else buffers:
            buffer.assign(tf.zeros([0], buffer.dtype))

    def begin(self):
        """Reads what a forward pass changes: call it before the step."""
        trained = {id(v) for v in self._model.trainable_variables}
        self._begun = {
            id(v): read(v)
            for v in state_of(self._model)
            if id(v) not in trained
        }
        for key, buffer in self._eager.items():
            if key in self._begun:
                buffer.assign(self._begun[key])

    def _value_of(self, variable):
        """The value of a variable as the step began."""
        key = id(variable)
        if key not in self._begun:
            return read(variable)
        if tf.executing_eagerly() or not hasattr(self._begun[key], "numpy"):
            return self._begun[key]
        # A function would keep the value of the step that it is traced in.
        if key not in self._eager:
            with guard_variables():
                self._eager[key] = tf.Variable(self._begun[key], False)
        return read(self._eager[key])

    def store(self, batch):
        """Adds the ops that keep a bad step, if none is kept already.

        Args:
            batch: The tensors of the batch, flat.
        """
        if self._variables is None:
            self._is_planned |= is_compiled_here()
            self._make_buffer()
        if not self.is_possible:
            return
        buffers = self._rooms_for(batch) if self._is_batch_kept else ()

        def store():
            shape = tf.constant([-1])
            for dtype, buffer in self._weights.items():
                flat = [
                    tf.raw_ops.Reshape(tensor=self._value_of(v), shape=shape)
                    for v in self._of(dtype)
                ]
                buffer.assign(tf.concat(flat, axis=0))
            for buffer, tensor in zip(buffers, batch, strict=False):
                buffer.assign(tensor)
            self._state.assign([True, bool(buffers)])
            return tf.constant(0)

        rarely(~self._state[0], store, 0)

    def _rooms_for(self, batch):
        shapes = [tensor.shape for tensor in batch]
        if self._is_planned and not all(s.is_fully_defined() for s in shapes):
            return ()
        if self._batch is None:
            self._batch = [self._buffer(t.shape, t.dtype) for t in batch]
        is_same = len(batch) == len(self._batch) and all(
            buffer.shape.is_compatible_with(shape)
            for buffer, shape in zip(self._batch, shapes, strict=True)
        )
        return self._batch if is_same else ()

    def take(self):
        """Returns what was kept, and makes buffer for the next step.

        Returns:
            `(weights, batch)`: `(variable, value)` pairs, empty if there was
            no buffer, and the flat tensors of the batch or `None`.
        """
        is_kept, has_batch = self._state.numpy()
        weights, batch = (), None
        if is_kept:
            values = {}
            for dtype, buffer in self._weights.items():
                own = self._of(dtype)
                parts = tf.split(buffer, [num_elements(v) for v in own])
                for variable, part in zip(own, parts, strict=True):
                    shape = tuple(variable.shape)
                    values[id(variable)] = tf.reshape(part, shape)
            weights = [(v, values[id(v)]) for v in self._variables]
        if has_batch:
            batch = [tf.convert_to_tensor(buffer) for buffer in self._batch]
        self._state.assign([False, False])
        return weights, batch
