"""A bad step on disk, so that it can be run again later.

A folder holds `incident.json` and `arrays.npz`: plain values and arrays. What
the arrays stand for, tensors of a batch and values of variables, the backend
knows.

A stranger may have written it. Reading it runs no code and unpickles nothing;
no more is unpacked than an incident is written with, and no array is made
before the bytes that it claims are seen to be there.
"""

import contextlib
import dataclasses
import io
import json
import math
import os
import platform
import struct
import sys
import tokenize
import zipfile

import numpy as np

from keras_gradguard.records.kinds import MOST_BYTES, SCHEMA
from keras_gradguard.records.reading import (
    FORGED,
    diagnosis_of,
    record_of,
    shown,
)
from keras_gradguard.records.report import finite
from keras_gradguard.records.text import path_from_here, replay_command
from keras_gradguard.report.files import (
    disk_errors,
    exists,
    read_bounded,
    write_folder,
)

FOLDER = "incidents"
MOST = 3
_RECORD, _ARRAYS = "incident.json", "arrays.npz"
# Those that are loaded are named with their versions.
_PACKAGES = ("tensorflow", "keras", "numpy", "jax")
# Of names and shapes; a model of 10,000 variables has 2 MB.
_MOST_OF_RECORD = 64 * 2**20
# Each array has a header, and is listed.
_MOST_OF_ARRAYS = MOST_BYTES + 32 * 2**20
_MODES = ("eager", "graph", "xla")
_MOST_NESTED = 50
_MOST_LETTERS = 300
_NUMBERS = "biufc"
_BROKEN_ZIP = (
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    struct.error,
)
# NumPy reads a header as Python does a literal.
_BROKEN_HEADER = (MemoryError, RecursionError, SyntaxError, tokenize.TokenError)


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
            text = read_bounded(os.path.join(folder, _RECORD), _MOST_OF_RECORD)
            content = read_bounded(
                os.path.join(folder, _ARRAYS), _MOST_OF_ARRAYS
            )
    except OSError as error:
        raise ValueError(
            f"{folder!r} is not an incident folder, such as "
            f"logs/{FOLDER}/step_12: cannot read {_RECORD} and {_ARRAYS} in it"
        ) from error
    with broken_records(folder):
        values = _values(text)
    known = values["schema"]
    if known != SCHEMA:
        raise ValueError(
            f"{folder!r} has schema {shown(known)}, but this version of "
            f"keras_gradguard reads schema {SCHEMA}: use the version that "
            "wrote it"
        )
    with broken_records(folder):
        return _incident(values, content)


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
    except FORGED as error:
        reason = " ".join(str(error).split())
        if isinstance(error, KeyError):
            reason = f"it has no {reason}"
        if len(reason) > _MOST_LETTERS:
            reason = reason[:_MOST_LETTERS] + "..."
        raise ValueError(f"{folder!r} is damaged: {reason}") from error


def _values(text):
    try:
        values = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{_RECORD} is nested too deeply") from error
    if not isinstance(values, dict) or "schema" not in values:
        raise TypeError(f"{_RECORD} has no `schema`")
    return values


def _incident(values, content):
    """Makes an `Incident` of the two files, and checks that they agree."""
    found = record_of(
        Incident,
        {**values, "arrays": {}},
        {"names": _named, "weights": _typed, "diagnoses": _checked_diagnosis},
    )
    if found.mode not in _MODES or found.step < 0:
        raise ValueError(f"it is step {found.step} of {shown(found.mode)}")
    if found.weights and len(found.weights) != len(found.names):
        raise ValueError(
            f"it has {len(found.weights)} weights for {len(found.names)} "
            "variables"
        )
    if not set(found.hit) <= set(found.paths):
        raise ValueError("a gradient that is not finite is of no variable")
    wanted = [] if found.batch is None else _checked_batch(found.batch)
    for name, dtype in found.weights:
        wanted += [name, f"{name}_bytes"] if dtype == "string" else [name]
    arrays = _arrays(content, dict.fromkeys(wanted))
    for (name, _), (path, shape) in zip(
        found.weights, found.names, strict=False
    ):
        if arrays[name].shape != shape:
            raise ValueError(
                f"the value of {shown(path)} has the shape "
                f"{arrays[name].shape}, and the variable {shape}"
            )
    return Incident(**{**vars(found), "arrays": arrays})


def _named(item):
    path, shape = item
    if not isinstance(path, str) or not all(map(_is_length, shape)):
        raise TypeError(f"a variable is {shown(item)}")
    return path, tuple(shape)


def _is_length(value):
    return isinstance(value, int) and value >= 0


def _typed(item):
    name, dtype = item
    if not isinstance(name, str) or not isinstance(dtype, str):
        raise TypeError(f"an array is {shown(item)}")
    return name, dtype


def _checked_diagnosis(values):
    diagnosis_of(values)
    return values


def _checked_batch(tree, depth=0):
    """Checks how a batch is made, and returns the names of its arrays."""
    if depth > _MOST_NESTED:
        raise ValueError("its batch is nested too deeply")
    ((kind, value),) = tree.items()
    if kind == "none":
        return []
    if kind == "tensor":
        name, dtype = _typed(value)
        return [name, f"{name}_bytes"] if dtype == "string" else [name]
    if kind == "dict":
        value = [item for _, item in value]
    elif kind not in ("list", "tuple", "ragged", "sparse"):
        raise ValueError(f"its batch holds {shown(kind)}")
    return [name for item in value for name in _checked_batch(item, depth + 1)]


def _arrays(content, names):
    """Returns the arrays of some names, by name; no other one is unpacked."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as kept:
            members = {name: kept.getinfo(f"{name}.npy") for name in names}
            methods = {member.compress_type for member in members.values()}
            if methods - {zipfile.ZIP_STORED}:
                raise ValueError("its arrays are compressed")
            size = sum(member.file_size for member in members.values())
            if size > _MOST_OF_ARRAYS:
                raise ValueError(f"its arrays claim {size:,} bytes")
            found = {name: kept.read(m) for name, m in members.items()}
    except _BROKEN_ZIP as error:
        raise ValueError(f"{_ARRAYS} is broken: {error}") from error
    return {name: _array(name, found.pop(name)) for name in members}


_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _array(name, content):
    """Makes an array of the bytes of a file of NumPy's."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"the array {shown(name)} has the version {version}")
    try:
        shape, is_fortran, dtype = _HEADERS[version](file)
    except _BROKEN_HEADER as error:
        raise ValueError(f"the array {shown(name)} has no header") from error
    size = math.prod(shape) * dtype.itemsize
    if dtype.kind not in _NUMBERS or not all(map(_is_length, shape)):
        raise ValueError(f"the array {shown(name)} holds {dtype}")
    if size != len(content) - file.tell():
        raise ValueError(
            f"the array {shown(name)} claims {shown(size)} bytes, and has "
            f"{len(content) - file.tell():,}"
        )
    flat = np.frombuffer(content, dtype, offset=file.tell())
    return flat.reshape(shape, order="F" if is_fortran else "C")


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
