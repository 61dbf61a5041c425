"""An incident read from its folder, which a stranger may have written.

Reading it runs no code and unpickles nothing. No more is unpacked than an
incident is written with, and no array is made before the bytes that it claims
are seen to be there.
"""

import contextlib
import io
import json
import math
import os
import struct
import tokenize
import zipfile

import numpy as np

from keras_gradguard.records.decoding import FORGED, record_of, shown
from keras_gradguard.records.kinds import MOST_BYTES, SCHEMA
from keras_gradguard.records.reading import diagnosis_of
from keras_gradguard.report.files import disk_errors, read_bounded
from keras_gradguard.report.incident import (
    ARRAYS,
    FOLDER,
    RECORD,
    Incident,
)

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
            text = read_bounded(os.path.join(folder, RECORD), _MOST_OF_RECORD)
            content = read_bounded(
                os.path.join(folder, ARRAYS), _MOST_OF_ARRAYS
            )
    except OSError as error:
        raise ValueError(
            f"{folder!r} is not an incident folder, such as "
            f"logs/{FOLDER}/step_12: cannot read {RECORD} and {ARRAYS} in it"
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
        raise ValueError(f"{RECORD} is nested too deeply") from error
    if not isinstance(values, dict) or "schema" not in values:
        raise TypeError(f"{RECORD} has no `schema`")
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
            return {
                name: _array(name, kept.read(member))
                for name, member in members.items()
            }
    except _BROKEN_ZIP as error:
        raise ValueError(f"{ARRAYS} is broken: {error}") from error


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
