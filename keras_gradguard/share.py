"""Step 2: the batch of a step, kept until Python asks for it."""

import tensorflow as tf

from keras_gradguard.diagnosis import internals

# Key of the batch among a step's logs, on its way out.
CHANNEL = "gradguard"


class Share:
    """Keeps a batch, or one replica's share of it.

    A variable takes a tensor without copying it; as an output of the step
    each tensor would cost Keras some 50 microseconds to unpack. XLA would
    compile once more for a room of another shape, so there it is filled in
    the graph around the step; or else the batch is an output.

    Args:
        is_xla: Whether the step is compiled by XLA.
        is_alone: Whether one replica trains.
    """

    def __init__(self, is_xla, is_alone):
        self._is_room = not is_xla
        self._is_sent = is_xla and is_alone
        self._rooms = self._taken = None

    def keep(self, batch):
        """Adds the ops that keep a batch.

        Args:
            batch: The tensors of the batch, flat.
        """
        if self._is_room:
            self._fill(batch)

    def _fill(self, batch):
        dtypes = [tensor.dtype for tensor in batch]
        if self._rooms is None or dtypes != [r.dtype for r in self._rooms]:
            with internals.room():
                self._rooms = [_room(dtype) for dtype in dtypes]
        for room, tensor in zip(self._rooms, batch, strict=True):
            room.assign(tensor)

    def reset(self):
        """Lets go of the batch."""
        self._taken = None
        for room in self._rooms or ():
            room.assign(tf.zeros([0], room.dtype))

    def send(self, batch, logs):
        """Adds a batch to the logs of its step, if that is its way out.

        Args:
            batch: The tensors of the batch, flat.
            logs: A dict.
        """
        if not self._is_sent:
            return
        fetched = internals.fetched_around(batch)
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
        if self._rooms is None:
            return self._taken
        return [tf.convert_to_tensor(room) for room in self._rooms]


def _room(dtype):
    empty, shape = tf.zeros([0], dtype), tf.TensorShape(None)
    return tf.Variable(empty, shape=shape, trainable=False)
