"""Step 2: one replica's share of a batch, kept where it is recorded."""

import tensorflow as tf

from keras_gradguard.diagnosis import internals


class Share:
    """Keeps the batch of one replica until the next record."""

    def __init__(self):
        self._rooms = None
        with internals.room():
            self._is_kept = tf.Variable(False, trainable=False)

    def keep(self, due, batch):
        """Adds the ops that keep a batch.

        Args:
            due: Boolean scalar tensor; whether this step is to be recorded.
            batch: The tensors of the batch, flat.
        """
        if self._rooms is None:
            with internals.room():
                self._rooms = [
                    tf.Variable(
                        tf.zeros([0], tensor.dtype),
                        shape=tf.TensorShape(None),
                        trainable=False,
                    )
                    for tensor in batch
                ]

        def store():
            for room, tensor in zip(self._rooms, batch, strict=True):
                room.assign(tensor)
            self._is_kept.assign(True)
            return tf.constant(0)

        internals.rarely(due, store, 0)

    def read(self):
        """Returns the tensors of the batch, flat, or `None` before it."""
        if not self._is_kept:
            return None
        return [tf.convert_to_tensor(room) for room in self._rooms]
