"""Step 2: the batch of a step, kept until the next one."""

import tensorflow as tf

from keras_gradguard.diagnosis import internals


class Share:
    """Keeps the last batch, or one replica's share of it.

    A variable takes a tensor without copying it, so this costs next to
    nothing; as an output of the step each tensor would cost Keras some
    30 microseconds to unpack.
    """

    def __init__(self):
        self._rooms = None

    def keep(self, batch):
        """Adds the ops that keep a batch.

        Args:
            batch: The tensors of the batch, flat.
        """
        dtypes = [tensor.dtype for tensor in batch]
        if self._rooms is None or dtypes != [r.dtype for r in self._rooms]:
            with internals.room():
                self._rooms = [self._room(dtype) for dtype in dtypes]
        for room, tensor in zip(self._rooms, batch, strict=True):
            room.assign(tensor)

    @staticmethod
    def _room(dtype):
        empty, shape = tf.zeros([0], dtype), tf.TensorShape(None)
        return tf.Variable(empty, shape=shape, trainable=False)

    def read(self):
        """Returns the tensors of the batch, flat, or `None` before it."""
        if self._rooms is None:
            return None
        return [tf.convert_to_tensor(room) for room in self._rooms]
