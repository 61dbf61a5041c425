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

from keras_gradguard.batch import flat
from keras_gradguard.packing import loaded, packed, stored, unpacked
from keras_gradguard.records import SCHEMA, finite
from keras_gradguard.report import message

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


def again(folder):
    """Returns the note that tells how to run an incident once more.

    Args:
        folder: The folder of the incident.
    """
    return f"run it again: {_command(folder)}"


def _command(folder):
    return f"python -m keras_gradguard replay {folder} --model FILE.py:FUNCTION"


def told(folder, incident):
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
    folder = message.seen_from_here(folder)
    evidence = [known["evidence"] for known in incident.diagnoses]
    samples = next((e for e in evidence if "samples" in e), {})
    shapes = [tuple(tensor.shape) for tensor in flat(incident.batch)]
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
