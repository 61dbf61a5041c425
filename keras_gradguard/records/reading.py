"""Records that somebody may have stored, read back; no TensorFlow."""

import dataclasses
import json
import os
import reprlib
import stat
import types
import typing

from keras_gradguard.records.health import (
    LossReach,
    OptimizerHealth,
    VariableHealth,
)
from keras_gradguard.records.kinds import KINDS, SCHEMA, SEVERITIES, STATUSES
from keras_gradguard.records.report import (
    Diagnosis,
    Help,
    Patch,
    Report,
    Undecided,
)

# A report of 10,000 variables has 4 MB.
_MOST_BYTES = 64 * 2**20
_LARGEST = 2**63
# JSON has no numbers for them, so they are written as words.
_NOT_FINITE = {"nan", "inf", "-inf"}
# What values of other types and names raise.
FORGED = (AttributeError, KeyError, TypeError, ValueError)


def read_report(path):
    """Reads what `Report.to_json` has written.

    Args:
        path: Path of the file.

    Returns:
        The `Report`.

    Raises:
        ValueError: If there is no such file, or it holds no such report, or
            one of a later schema.
    """
    name = os.fspath(path)
    try:
        # A pipe or a device may have no end.
        found = os.stat(name)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{name!r} is not a file")
        if found.st_size > _MOST_BYTES:
            raise ValueError(
                f"{name!r} has {found.st_size:,} bytes, and no report has more "
                f"than {_MOST_BYTES:,}"
            )
        with open(name, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"cannot read {name!r}: {reason}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{name!r} is not a text in UTF-8") from error
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name!r} is not a JSON file: {error}") from error
    try:
        return report_of(values)
    except FORGED as error:
        raise ValueError(
            f"{name!r} was not written by `Report.to_json`: {error}"
        ) from error


def report_of(values):
    """Makes a `Report` of what `Report.to_dict` returns.

    Args:
        values: A dict.

    Raises:
        KeyError, TypeError, ValueError: If the dict is not one of a report.
    """
    _check_schema(values, "report")
    if "diagnoses" not in values:
        raise TypeError("it has no list of `diagnoses`")
    made = {
        "diagnoses": diagnosis_of,
        "variables": _maker_of(VariableHealth, _check_variable),
        "optimizers": _maker_of(OptimizerHealth),
        "losses": _maker_of(LossReach),
        "undecided": _maker_of(Undecided, _check_status),
    }
    return record_of(Report, values, made)


def _check_schema(values, what):
    if not isinstance(values, dict) or "schema" not in values:
        raise TypeError(f"there is no {what} with a `schema` in it")
    schema = values["schema"]
    if not isinstance(schema, int) or schema < 1:
        raise ValueError(f"it has the schema {shown(schema)}")
    if schema > SCHEMA:
        raise ValueError(
            f"it has schema {shown(schema)} of a later version of "
            f"keras_gradguard, and this version reads schema {SCHEMA}: upgrade "
            "keras_gradguard, or write the file again"
        )


def diagnosis_of(values):
    """Makes a `Diagnosis` of what `Diagnosis.to_dict` returns.

    Args:
        values: A dict.

    Raises:
        KeyError, TypeError, ValueError: If the dict is not one of a diagnosis.
    """
    _check_schema(values, "diagnosis")
    found = record_of(Diagnosis, values, {"help": _help})
    _expect("kind", found.kind, KINDS)
    _expect("severity", found.severity, SEVERITIES)
    evidence = found.evidence
    if not fits(tuples(evidence.get("notes", [])), tuple[str, ...]):
        raise TypeError(
            f"its `evidence.notes` is {shown(evidence['notes'])}, not a list "
            "of strings"
        )
    if not fits(evidence.get("snippet_start"), int | None):
        start = shown(evidence["snippet_start"])
        raise TypeError(f"its `evidence.snippet_start` is {start}")
    return found


def _help(values):
    values = dict(values)
    if values.get("patch") is not None:
        values["patch"] = record_of(Patch, values["patch"])
        _check_changes(values["patch"].changes)
    return record_of(Help, values)


def _check_changes(changes):
    kinds = int, tuple[str, ...], tuple[str, ...]
    for change in changes:
        if not (
            isinstance(change, tuple)
            and len(change) == len(kinds)
            and all(map(fits, change, kinds))
            and change[0] > 0
        ):
            raise TypeError(f"a change of its patch is {shown(change)}")


def _check_variable(variable):
    _check_status(variable)
    if any(number < 0 for number in variable.shape):
        raise ValueError(f"its `shape` is {variable.shape}")


def _check_status(record):
    _expect("status", record.status, STATUSES)


def _maker_of(record, check=None):
    """Returns what makes one record of its values."""

    def make(values):
        found = record_of(record, values)
        if check is not None:
            check(found)
        return found

    return make


def _expect(name, value, known):
    if value not in known:
        raise ValueError(f"its `{name}` is {shown(value)}")


def record_of(record, values, inner=types.MappingProxyType({})):
    """Makes a record of a dict, each field of the type that it has.

    Args:
        record: A dataclass; its annotations are what is expected.
        values: The dict; what no field has the name of is left out.
        inner: Name of a field -> what makes each item of its list.

    Raises:
        TypeError: If a field is missing, or of another type.
    """
    if not isinstance(values, dict):
        raise TypeError(f"{shown(values)} stands where a dict is expected")
    hints, known = typing.get_type_hints(record), {}
    for field in dataclasses.fields(record):
        if field.name not in values:
            if field.default is field.default_factory is dataclasses.MISSING:
                raise TypeError(f"it has no `{field.name}`")
            continue
        value, hint = values[field.name], hints[field.name]
        if field.name in inner and isinstance(value, list):
            value = tuple(map(inner[field.name], value))
        value = _number(tuples(value)) if hint is not dict else value
        if not fits(value, hint):
            raise TypeError(f"its `{field.name}` is {shown(value)}")
        known[field.name] = value
    return record(**known)


def fits(value, hint):
    """Returns whether a value is of an annotated type."""
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if kind in (types.UnionType, typing.Union):
        return any(fits(value, one) for one in inner)
    if kind is tuple:
        # `tuple[item, ...]`
        is_tuple = isinstance(value, tuple)
        return is_tuple and all(fits(item, inner[0]) for item in value)
    if hint is int or hint is float:
        is_number = isinstance(value, (int, hint))
        is_small = not isinstance(value, int) or abs(value) < _LARGEST
        return is_number and is_small and not isinstance(value, bool)
    return isinstance(value, hint)


def tuples(value):
    """Returns a list of JSON as the tuple that a record holds."""
    if isinstance(value, list):
        return tuple(_number(tuples(item)) for item in value)
    return value


def shown(value):
    """Returns a value in few letters."""
    return _short.repr(value)


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 40


def _number(value):
    """A number that JSON has no way to write is a word there."""
    is_word = isinstance(value, str) and value in _NOT_FINITE
    return float(value) if is_word else value
