"""Step 2 of 5: the weights and the batch of the first bad step, kept.

They are copied in the graph, and only when a step is bad; until then they
take no memory, except under XLA, whose memory is planned before.
"""

import collections

import tensorflow as tf

from keras_gradguard.diagnosis import (
    function_internals,
    internals,
    keras_internals,
    variable_internals,
)
from keras_gradguard.update import num_elements

# XLA needs the room beforehand: as much as an incident may take on disk.
_MOST_BYTES_XLA = 256 * 2**20


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
        with internals.room():
            self._state = tf.Variable([False, False], trainable=False)

    def _make_room(self):
        # A model may be built no sooner than in its first step.
        self._variables = keras_internals.state_of(self._model)
        sizes = collections.Counter()
        for variable in self._variables:
            sizes[tf.as_dtype(variable.dtype)] += num_elements(variable)
        size = sum(dtype.size * number for dtype, number in sizes.items())
        self.is_possible = not self._is_planned or size <= _MOST_BYTES_XLA
        if self.is_possible:
            # One for all: each room is one more input of the step.
            self._weights = {
                dtype: self._room([number], dtype)
                for dtype, number in sizes.items()
            }

    def _of(self, dtype):
        """The variables of one dtype."""
        return [v for v in self._variables if tf.as_dtype(v.dtype) == dtype]

    def _room(self, shape, dtype):
        is_planned = self._is_planned
        with internals.room():
            return tf.Variable(
                tf.zeros(tuple(shape) if is_planned else [0], dtype),
                shape=tuple(shape) if is_planned else tf.TensorShape(None),
                trainable=False,
            )

    def reset(self):
        """Lets go of what was kept, where room can be made again."""
        self._state.assign([False, False])
        rooms = [*(self._weights or {}).values(), *(self._batch or ())]
        for room in () if self._is_planned else rooms:
            room.assign(tf.zeros([0], room.dtype))

    def begin(self):
        """Reads what a forward pass changes: call it before the step."""
        trained = {id(v) for v in self._model.trainable_variables}
        self._begun = {
            id(v): variable_internals.read(v)
            for v in keras_internals.state_of(self._model)
            if id(v) not in trained
        }
        for key, room in self._eager.items():
            if key in self._begun:
                room.assign(self._begun[key])

    def _value_of(self, variable):
        """The value of a variable as the step began."""
        key = id(variable)
        if key not in self._begun:
            return variable_internals.read(variable)
        if tf.executing_eagerly() or not hasattr(self._begun[key], "numpy"):
            return self._begun[key]
        # A function would keep the value of the step that it is traced in.
        if key not in self._eager:
            with internals.room():
                self._eager[key] = tf.Variable(self._begun[key], False)
        return variable_internals.read(self._eager[key])

    def keep(self, batch):
        """Adds the ops that keep a bad step, if none is kept already.

        Args:
            batch: The tensors of the batch, flat.
        """
        if self._variables is None:
            self._is_planned |= function_internals.is_compiled_here()
            self._make_room()
        if not self.is_possible:
            return
        rooms = self._rooms_for(batch) if self._is_batch_kept else ()

        def store():
            shape = tf.constant([-1])
            for dtype, room in self._weights.items():
                flat = [
                    tf.raw_ops.Reshape(tensor=self._value_of(v), shape=shape)
                    for v in self._of(dtype)
                ]
                room.assign(tf.concat(flat, axis=0))
            for room, tensor in zip(rooms, batch, strict=False):
                room.assign(tensor)
            self._state.assign([True, bool(rooms)])
            return tf.constant(0)

        internals.rarely(~self._state[0], store, 0)

    def _rooms_for(self, batch):
        shapes = [tensor.shape for tensor in batch]
        if self._is_planned and not all(s.is_fully_defined() for s in shapes):
            return ()
        if self._batch is None:
            self._batch = [self._room(t.shape, t.dtype) for t in batch]
        is_same = len(batch) == len(self._batch) and all(
            room.shape.is_compatible_with(shape)
            for room, shape in zip(self._batch, shapes, strict=True)
        )
        return self._batch if is_same else ()

    def take(self):
        """Returns what was kept, and makes room for the next step.

        Returns:
            `(weights, batch)`: `(variable, value)` pairs, empty if there was
            no room, and the flat tensors of the batch or `None`.
        """
        is_kept, has_batch = self._state.numpy()
        weights, batch = (), None
        if is_kept:
            values = {}
            for dtype, room in self._weights.items():
                own = self._of(dtype)
                parts = tf.split(room, [num_elements(v) for v in own])
                for variable, part in zip(own, parts, strict=True):
                    shape = tuple(variable.shape)
                    values[id(variable)] = tf.reshape(part, shape)
            weights = [(v, values[id(v)]) for v in self._variables]
        if has_batch:
            batch = [tf.convert_to_tensor(room) for room in self._batch]
        self._state.assign([False, False])
        return weights, batch
