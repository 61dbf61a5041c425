"""A batch as flat tensors or arrays, and its structure apart from them."""

import keras
import numpy as np
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


def is_composite(value):
    """Returns whether a value is a ragged or sparse tensor."""
    return isinstance(value, (tf.RaggedTensor, tf.SparseTensor))


def is_dataset(value):
    """Returns whether a value is a `tf.data.Dataset`."""
    return isinstance(value, tf.data.Dataset)


def first_batch(dataset):
    """Returns the first batch of a dataset, `None` if it has none."""
    return next(iter(dataset.take(1)), None)


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


def packed(nest, arrays):
    """Returns a batch as JSON-ready values; its tensors go into `arrays`.

    Args:
        nest: Dicts, lists and tuples of tensors (also ragged and sparse).
        arrays: Dict to put NumPy arrays in.
    """
    if nest is None:
        return {"none": True}
    if isinstance(nest, dict):
        items = [[key, packed(value, arrays)] for key, value in nest.items()]
        return {"dict": items}
    if isinstance(nest, (list, tuple)):
        name = "list" if isinstance(nest, list) else "tuple"
        return {name: [packed(value, arrays) for value in nest]}
    if isinstance(nest, tf.RaggedTensor):
        parts = [nest.flat_values, *nest.nested_row_splits]
        return {"ragged": [packed(part, arrays) for part in parts]}
    if isinstance(nest, tf.SparseTensor):
        parts = [nest.indices, nest.values, nest.dense_shape]
        return {"sparse": [packed(part, arrays) for part in parts]}
    return {"tensor": stored(f"b{len(arrays)}", nest.numpy(), arrays)}


def unpacked(tree, arrays):
    """Returns the batch that `packed` has packed.

    Args:
        tree: What it returned.
        arrays: What it put its arrays in.

    Raises:
        TypeError, ValueError: If the two do not fit.
    """
    try:
        return _unpacked(tree, arrays)
    except (tf.errors.OpError, AssertionError) as error:
        raise ValueError(f"its batch is no batch: {error}") from error


def _unpacked(tree, arrays):
    ((kind, value),) = tree.items()
    if kind == "none":
        return None
    if kind == "dict":
        return {key: _unpacked(item, arrays) for key, item in value}
    if kind == "tensor":
        return tf.convert_to_tensor(loaded(value, arrays))
    parts = [_unpacked(item, arrays) for item in value]
    if kind == "ragged":
        return tf.RaggedTensor.from_nested_row_splits(parts[0], parts[1:])
    if kind == "sparse":
        return tf.SparseTensor(*parts)
    return parts if kind == "list" else tuple(parts)


def stored(name, value, arrays):
    """Puts one array away in a form that needs no pickle.

    Args:
        name: Name of the array.
        value: The array; of numbers, or of texts as bytes.
        arrays: Dict to put it in.

    Returns:
        What `loaded` takes.
    """
    value = np.asarray(value)
    dtype = tf.as_dtype(value.dtype).name
    if dtype == "string":
        texts = [item for item in value.ravel()]
        value = np.array([len(text) for text in texts], np.int64).reshape(
            value.shape
        )
        arrays[f"{name}_bytes"] = np.frombuffer(b"".join(texts), np.uint8)
    elif dtype == "bfloat16" or dtype.startswith("float8"):
        value = value.view(np.uint8 if value.itemsize == 1 else np.uint16)
    arrays[name] = value
    return [name, dtype]


def loaded(item, arrays):
    """Returns the array that `stored` has put away.

    Args:
        item: What it returned.
        arrays: What it put the array in.

    Raises:
        TypeError, ValueError: If the two do not fit.
    """
    name, dtype = item
    value = arrays[name]
    if dtype == "string":
        _check_lengths(name, value, arrays[f"{name}_bytes"])
        ends = np.cumsum(value.ravel())
        whole = arrays[f"{name}_bytes"].tobytes()
        texts = [
            whole[end - length : end]
            for end, length in zip(ends, value.ravel(), strict=True)
        ]
        return np.array(texts, object).reshape(value.shape)
    kind = np.dtype(tf.as_dtype(dtype).as_numpy_dtype)
    if value.dtype == kind:
        return value
    if value.dtype.kind != "u" or value.dtype.itemsize != kind.itemsize:
        raise ValueError(f"the array {name!r} is {value.dtype}, not {dtype}")
    return value.view(kind)


def _check_lengths(name, lengths, texts):
    known = lengths.ravel()
    is_whole = known.dtype.kind in "iu" and texts.dtype == np.uint8
    if not is_whole or known.min(initial=0) < 0 or known.sum() != texts.size:
        raise ValueError(f"the lengths of the texts {name!r} do not fit them")
