"""A report that was written as JSON, read back; no TensorFlow."""

import json
import os
import stat

from keras_gradguard.records.decoding import (
    FORGED,
    fits,
    record_of,
    shown,
    tuples,
)
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
