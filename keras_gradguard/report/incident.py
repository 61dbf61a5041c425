"""Step 5: a bad step on disk, so that it can be run once more later.

A folder holds `incident.json` and `arrays.npz`: plain values and arrays.
Reading it runs no code of its own: nothing is unpickled.
"""

import dataclasses
import io
import json
import os
import platform

import keras
import numpy as np
import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.batches import flat_tensors
from keras_gradguard.records.kinds import SCHEMA
from keras_gradguard.records.report import finite
from keras_gradguard.records.text import seen_from_here


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
    """
    ((kind, value),) = tree.items()
    if kind == "none":
        return None
    if kind == "dict":
        return {key: unpacked(item, arrays) for key, item in value}
    if kind == "tensor":
        return tf.convert_to_tensor(loaded(value, arrays))
    parts = [unpacked(item, arrays) for item in value]
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
    """
    name, dtype = item
    value = arrays[name]
    if dtype == "string":
        ends = np.cumsum(value.ravel())
        whole = arrays[f"{name}_bytes"].tobytes()
        texts = [
            whole[end - length : end]
            for end, length in zip(ends, value.ravel(), strict=True)
        ]
        return np.array(texts, object).reshape(value.shape)
    if value.dtype != tf.as_dtype(dtype).as_numpy_dtype:
        return value.view(tf.as_dtype(dtype).as_numpy_dtype)
    return value


FOLDER = "incidents"
MOST = 3
MOST_BYTES = 256 * 2**20
_RECORD, _ARRAYS = "incident.json", "arrays.npz"


@dataclasses.dataclass(frozen=True)
class Incident:
    """One bad step.

    Args:
        step: Number of updates before it.
        epoch: Epoch, or `None`.
        batch: The batch as `train_step` got it, tensors; `None` if it was
            not kept.
        weights: Values of the model's variables before the step, arrays in
            the order of the model; empty if they were not kept.
        names: `(path, shape)` of each variable of the model.
        paths: Paths of the trainable variables.
        hit: Paths of those whose gradient was not finite.
        mode: `"eager"`, `"graph"` or `"xla"`.
        notes: What was left out, and why.
        diagnoses: The diagnoses as `Diagnosis.to_dict` gives them.
    """

    step: int
    epoch: int | None
    batch: object
    weights: tuple
    names: tuple
    paths: tuple[str, ...]
    hit: tuple[str, ...]
    mode: str
    notes: tuple[str, ...] = ()
    diagnoses: tuple[dict, ...] = ()


def bounded(incident):
    """Returns an incident that takes at most 256 MB, and says what is gone.

    Args:
        incident: The `Incident`.
    """
    arrays, notes = {}, list(incident.notes)
    batch, weights = incident.batch, incident.weights
    if batch is not None:
        packed(batch, arrays)
    size = sum(array.nbytes for array in arrays.values())
    if size > MOST_BYTES:
        notes.append(_too_large("the batch", size))
        batch, size = None, 0
    size += sum(np.asarray(value).nbytes for value in weights)
    if size > MOST_BYTES:
        notes.append(_too_large("the weights", size))
        weights = ()
    return dataclasses.replace(
        incident, batch=batch, weights=weights, notes=tuple(notes)
    )


def write_incident(folder, incident):
    """Writes an incident.

    Args:
        folder: Where to, see `new_folder`.
        incident: The `Incident`.

    Raises:
        OSError: If the folder cannot be written.
    """
    arrays = {}
    batch = incident.batch
    record = {
        "schema": SCHEMA,
        "step": incident.step,
        "epoch": incident.epoch,
        "mode": incident.mode,
        "batch": None if batch is None else packed(batch, arrays),
        "weights": [
            stored(f"w{number}", value, arrays)
            for number, value in enumerate(incident.weights)
        ],
        "names": [[path, list(shape)] for path, shape in incident.names],
        "paths": list(incident.paths),
        "hit": list(incident.hit),
        "notes": list(incident.notes),
        "dtype_policy": keras.config.dtype_policy().name,
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
        "diagnoses": finite(list(incident.diagnoses)),
    }
    content = io.BytesIO()
    np.savez(content, **arrays)
    try:
        tf.io.gfile.makedirs(folder)
        with tf.io.gfile.GFile(os.path.join(folder, _ARRAYS), "wb") as file:
            file.write(content.getvalue())
        with tf.io.gfile.GFile(os.path.join(folder, _RECORD), "w") as file:
            file.write(json.dumps(record, indent=1))
    except tf.errors.OpError as error:
        raise OSError(f"cannot write {folder!r}: {error.message}") from error


def _too_large(what, size):
    return (
        f"{what} of the incident were left out: {size / 2**20:.0f} MB are "
        f"more than the {MOST_BYTES // 2**20} MB that an incident may take"
    )


def new_folder(log_dir, step):
    """Returns a folder below `log_dir` that does not exist yet.

    Args:
        log_dir: The folder given to the callback.
        step: Number of updates before the bad step.
    """
    parent = os.path.join(os.fspath(log_dir), FOLDER)
    name, number = os.path.join(parent, f"step_{step}"), 1
    folder = name
    while tf.io.gfile.exists(folder):
        number += 1
        folder = f"{name}_{number}"
    return folder


def read_incident(folder):
    """Reads an incident.

    Args:
        folder: The folder that `write_incident` made.

    Returns:
        An `Incident`.

    Raises:
        ValueError: If the folder holds no incident, or a newer or broken
            one.
    """
    try:
        with tf.io.gfile.GFile(os.path.join(folder, _RECORD)) as file:
            record = json.loads(file.read())
        with tf.io.gfile.GFile(os.path.join(folder, _ARRAYS), "rb") as file:
            content = io.BytesIO(file.read())
        with np.load(content, allow_pickle=False) as kept:
            arrays = {name: kept[name] for name in kept.files}
        known = record["schema"]
        if known != SCHEMA:
            raise ValueError(
                f"{folder!r} was written with schema {known}, and this "
                f"version reads schema {SCHEMA}: use the version that wrote it"
            )
        batch = record["batch"]
        return Incident(
            step=record["step"],
            epoch=record["epoch"],
            batch=None if batch is None else unpacked(batch, arrays),
            weights=tuple(loaded(item, arrays) for item in record["weights"]),
            names=tuple((p, tuple(s)) for p, s in record["names"]),
            paths=tuple(record["paths"]),
            hit=tuple(record["hit"]),
            diagnoses=tuple(record["diagnoses"]),
            mode=record["mode"],
            notes=tuple(record["notes"]),
        )
    except (tf.errors.OpError, OSError) as error:
        raise ValueError(
            f"{folder!r} is no folder of an incident, such as "
            f"logs/{FOLDER}/step_12: it has no readable {_RECORD} and {_ARRAYS}"
        ) from error
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder!r} is broken: {error!r}") from error


def replay_note(folder):
    """Returns the note that tells how to run an incident once more.

    Args:
        folder: The folder of the incident.
    """
    return f"run it again: {_command(folder)}"


def _command(folder):
    return f"python -m keras_gradguard replay {folder} --model FILE.py:FUNCTION"


def incident_summary(folder, incident):
    """Returns what TensorBoard shows of an incident.

    Args:
        folder: The folder of the incident.
        incident: The `Incident`.

    Returns:
        JSON-ready dict: `step`, `epoch`, `folder`, `command` (runs it once
        more), `samples` (rows of the batch that are not finite, at most 10)
        and `num_samples` (how many are), `None` where it is not known which;
        `batch_size`, `variables` (paths), `message`, `notes`.
    """
    folder = seen_from_here(folder)
    evidence = [known["evidence"] for known in incident.diagnoses]
    samples = next((e for e in evidence if "samples" in e), {})
    shapes = [tuple(tensor.shape) for tensor in flat_tensors(incident.batch)]
    return {
        "step": incident.step,
        "epoch": incident.epoch,
        "folder": folder,
        "command": _command(folder),
        "samples": samples.get("samples"),
        "num_samples": samples.get("num_samples"),
        "batch_size": next((shape[0] for shape in shapes if shape), None),
        "variables": list(incident.hit),
        "message": next((d["message"] for d in incident.diagnoses), None),
        "notes": list(incident.notes),
    }
