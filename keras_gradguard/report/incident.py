"""A bad step on disk, so that it can be run again later.

A folder holds `incident.json` and `arrays.npz`: plain values and arrays.
Reading it runs no code of its own: nothing is unpickled. What the arrays
stand for, tensors of a batch and values of variables, the backend knows.
"""

import contextlib
import dataclasses
import io
import json
import os
import platform
import sys

import numpy as np

from keras_gradguard.records.kinds import MOST_BYTES, SCHEMA
from keras_gradguard.records.report import finite
from keras_gradguard.records.text import path_from_here
from keras_gradguard.report.files import (
    disk_errors,
    exists,
    open_file,
    write_folder,
)

FOLDER = "incidents"
MOST = 3
_RECORD, _ARRAYS = "incident.json", "arrays.npz"
# Those that are loaded are named with their versions.
_PACKAGES = ("tensorflow", "keras", "numpy", "jax")


@dataclasses.dataclass(frozen=True)
class Incident:
    """One bad step.

    Args:
        step: Number of updates before it.
        epoch: Epoch, or `None`.
        batch: How the batch that `train_step` got is made of `arrays`, as
            JSON-ready values; `None` if it was not kept.
        weights: A `[name, dtype]` for the value of each variable of the
            model before the step, in the order of the model; empty if they
            were not kept.
        names: `(path, shape)` of each variable of the model.
        paths: Paths of the trainable variables.
        hit: Paths of those whose gradient was not finite.
        mode: `"eager"`, `"graph"` or `"xla"`.
        arrays: Arrays that need no pickle, by name.
        dtype_policy: Name of the dtype policy of Keras, or `None`.
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
    arrays: dict
    dtype_policy: str | None = None
    notes: tuple[str, ...] = ()
    diagnoses: tuple[dict, ...] = ()

    @property
    def batch_arrays(self):
        """Those of `arrays` that hold the batch."""
        of_weights = {name for name, _ in self.weights}
        return {n: a for n, a in self.arrays.items() if n not in of_weights}

    @property
    def batch_size(self):
        """Number of rows of the batch, `None` if that is not known."""
        names = [] if self.batch is None else _names(self.batch)
        shapes = [self.arrays[name].shape for name in names]
        return next((shape[0] for shape in shapes if shape), None)


def _names(tree):
    """Yields the names of the arrays that a batch is made of, in order."""
    ((kind, value),) = tree.items()
    if kind == "tensor":
        yield value[0]
    elif kind == "dict":
        for _, item in value:
            yield from _names(item)
    elif kind != "none":
        for item in value:
            yield from _names(item)


def bounded(incident):
    """Returns an incident that takes at most 256 MB, and says what is gone.

    Args:
        incident: The `Incident`.
    """
    notes, weights = list(incident.notes), incident.weights
    batch, of_batch = incident.batch, incident.batch_arrays
    of_weights = {name: incident.arrays[name] for name, _ in weights}
    size = _size(of_batch)
    if size > MOST_BYTES:
        notes.append(_too_large("the batch", size))
        batch, of_batch, size = None, {}, 0
    size += _size(of_weights)
    if size > MOST_BYTES:
        notes.append(_too_large("the weights", size))
        weights, of_weights = (), {}
    return dataclasses.replace(
        incident,
        batch=batch,
        weights=weights,
        arrays={**of_batch, **of_weights},
        notes=tuple(notes),
    )


def _size(arrays):
    return sum(array.nbytes for array in arrays.values())


def write_incident(folder, incident):
    """Writes an incident, whole or not at all.

    Args:
        folder: Where to, see `new_folder`.
        incident: The `Incident`.

    Raises:
        OSError: If the folder cannot be written.
    """
    record = {
        "schema": SCHEMA,
        "step": incident.step,
        "epoch": incident.epoch,
        "mode": incident.mode,
        "batch": incident.batch,
        "weights": [list(item) for item in incident.weights],
        "names": [[path, list(shape)] for path, shape in incident.names],
        "paths": list(incident.paths),
        "hit": list(incident.hit),
        "notes": list(incident.notes),
        "dtype_policy": incident.dtype_policy,
        "versions": {
            "python": platform.python_version(),
            **{
                name: sys.modules[name].__version__
                for name in _PACKAGES
                if name in sys.modules
            },
        },
        "diagnoses": finite(list(incident.diagnoses)),
    }
    content = io.BytesIO()
    np.savez(content, **incident.arrays)
    text = json.dumps(record, indent=1)
    files = {_ARRAYS: content.getvalue(), _RECORD: text.encode()}
    write_folder(folder, files)


def _too_large(what, size):
    return (
        f"the incident does not contain {what}: {size / 2**20:.0f} MB exceed "
        f"the limit of {MOST_BYTES // 2**20} MB"
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
    while exists(folder):
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
        with disk_errors(f"cannot read {folder!r}"):
            with open_file(os.path.join(folder, _RECORD)) as file:
                text = file.read()
            with open_file(os.path.join(folder, _ARRAYS), "rb") as file:
                content = io.BytesIO(file.read())
    except OSError as error:
        raise ValueError(
            f"{folder!r} is not an incident folder, such as "
            f"logs/{FOLDER}/step_12: cannot read {_RECORD} and {_ARRAYS} in it"
        ) from error
    with broken_records(folder):
        record = json.loads(text)
        with np.load(content, allow_pickle=False) as kept:
            arrays = {name: kept[name] for name in kept.files}
        known = record["schema"]
        if known != SCHEMA:
            raise ValueError(
                f"{folder!r} has schema {known}, but this version of "
                f"keras_gradguard reads schema {SCHEMA}: use the version that "
                "wrote it"
            )
        return Incident(
            step=record["step"],
            epoch=record["epoch"],
            batch=record["batch"],
            weights=tuple(map(tuple, record["weights"])),
            names=tuple((p, tuple(s)) for p, s in record["names"]),
            paths=tuple(record["paths"]),
            hit=tuple(record["hit"]),
            diagnoses=tuple(record["diagnoses"]),
            mode=record["mode"],
            arrays=arrays,
            dtype_policy=record.get("dtype_policy"),
            notes=tuple(record["notes"]),
        )


@contextlib.contextmanager
def broken_records(folder):
    """Says of a folder that what is read of it is broken.

    Args:
        folder: The folder.

    Raises:
        ValueError: If the block fails for what was read.
    """
    try:
        yield
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder!r} is damaged: {error!r}") from error


def replay_note(folder):
    """Returns the note that tells how to replay an incident.

    Args:
        folder: The folder of the incident.
    """
    return f"replay it: {_command(folder)}"


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
    folder = path_from_here(folder)
    evidence = [known["evidence"] for known in incident.diagnoses]
    samples = next((e for e in evidence if "samples" in e), {})
    return {
        "step": incident.step,
        "epoch": incident.epoch,
        "folder": folder,
        "command": _command(folder),
        "samples": samples.get("samples"),
        "num_samples": samples.get("num_samples"),
        "batch_size": incident.batch_size,
        "variables": list(incident.hit),
        "message": next((d["message"] for d in incident.diagnoses), None),
        "notes": list(incident.notes),
    }
