"""A bad step on disk, so that it can be run again later.

A folder holds `incident.json` and `arrays.npz`: plain values and arrays. What
the arrays stand for, tensors of a batch and values of variables, the backend
knows. `stored_incident` reads it.
"""

import dataclasses
import io
import json
import os
import platform
import sys

import numpy as np

from keras_gradguard.records.kinds import MOST_BYTES, SCHEMA
from keras_gradguard.records.report import finite
from keras_gradguard.records.text import path_from_here, replay_command
from keras_gradguard.report.files import exists, write_folder

FOLDER = "incidents"
MOST = 3
RECORD, ARRAYS = "incident.json", "arrays.npz"
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
        names = [] if self.batch is None else array_names(self.batch)
        shapes = [self.arrays[name].shape for name in names]
        return next((shape[0] for shape in shapes if shape), None)


def array_names(tree):
    """Yields the names of the arrays that a batch is made of, in order.

    Args:
        tree: The `batch` of an `Incident`.
    """
    ((kind, value),) = tree.items()
    if kind == "tensor":
        yield value[0]
    elif kind == "dict":
        for _, item in value:
            yield from array_names(item)
    elif kind != "none":
        for item in value:
            yield from array_names(item)


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
    files = {ARRAYS: content.getvalue(), RECORD: text.encode()}
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


def replay_note(folder):
    """Returns the note that tells how to replay an incident.

    Args:
        folder: The folder of the incident.
    """
    return f"replay it: {replay_command(folder)}"


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
        "command": replay_command(folder),
        "samples": samples.get("samples"),
        "num_samples": samples.get("num_samples"),
        "batch_size": incident.batch_size,
        "variables": list(incident.hit),
        "message": next((d["message"] for d in incident.diagnoses), None),
        "notes": list(incident.notes),
    }
