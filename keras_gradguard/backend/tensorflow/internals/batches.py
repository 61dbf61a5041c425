"""Step 2: a batch as flat tensors, and its structure apart from them."""

import keras
import tensorflow as tf


def spec_of(data):
    """Returns a batch with the shape and dtype of each part for its values.

    Args:
        data: The batch as `train_step` gets it.
    """
    return keras.tree.map_structure(_spec, data)


def _spec(value):
    if isinstance(value, tf.Tensor):
        return tf.TensorSpec(value.shape, value.dtype)
    if tf.is_tensor(value) or hasattr(value, "_type_spec"):
        return tf.type_spec_from_value(value)
    return value


def flat_tensors(data):
    """Returns the tensors of a batch, those of ragged and sparse ones too.

    Args:
        data: The batch as `train_step` gets it.
    """
    return [
        tensor
        for part in keras.tree.flatten(data)
        for tensor in tf.nest.flatten(part, expand_composites=True)
        if tf.is_tensor(tensor)
    ]


def packed_batch(spec, tensors):
    """Returns flat tensors in the structure of a batch.

    Args:
        spec: What `spec_of` returned.
        tensors: What `flat` returned.
    """
    remaining = list(tensors)

    def pack(part):
        if not isinstance(part, tf.TypeSpec):
            return part
        count = len(tf.nest.flatten(part, expand_composites=True))
        own = [remaining.pop(0) for _ in range(count)]
        return tf.nest.pack_sequence_as(part, own, expand_composites=True)

    return keras.tree.map_structure(pack, spec)


def tensors_of(nest):
    """Returns the tensors in a nest of values, flat."""
    return [t for t in keras.tree.flatten(nest) if isinstance(t, tf.Tensor)]


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
