"""A report that was written as JSON, read back; no TensorFlow."""

import dataclasses
import json
import os

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

_NUMBER = (int, float, type(None))
_WORD = (str, type(None))
_COUNT = (int, type(None))
_FIGURES = dict.fromkeys(
    (
        *("norm", "largest", "mean", "zero_share", "update_ratio"),
        *("loss_scale", "clipped_share"),
    ),
    _NUMBER,
)
_TYPES = {
    **dict.fromkeys(("code", "name", "message", "why", "text"), str),
    **dict.fromkeys(("before", "after", "checked"), _WORD),
    "digest": str,
    "certainty": str,
    "num_variables": int,
    **dict.fromkeys(("file", "function", "loss", "op", "layer"), _WORD),
    **dict.fromkeys(("optimizer", "clipping", "not_checked"), _WORD),
    "accepted": _WORD,
    "status": str,
    **dict.fromkeys(
        ("line", "step", "epoch", "num_steps", "num_skipped"), _COUNT
    ),
    **_FIGURES,
    "evidence": dict,
}
# `to_json` writes them as words, since JSON has no numbers for them.
_NOT_FINITE = {"nan", "inf", "-inf"}


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
        with open(name, encoding="utf-8") as file:
            values = json.load(file)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"cannot read {name!r}: {reason}") from error
    except ValueError as error:
        raise ValueError(f"{name!r} is not a JSON file: {error}") from error
    try:
        return report_of(values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
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
    if not isinstance(values.get("diagnoses"), list):
        raise TypeError("it has no list of `diagnoses`")
    values = _known(Report, values)
    return Report(
        diagnoses=tuple(map(diagnosis_of, values["diagnoses"])),
        variables=tuple(map(_variable, values.get("variables", ()))),
        global_norm=_number(values.get("global_norm")),
        step=values.get("step"),
        optimizers=tuple(map(_optimizer, values.get("optimizers", ()))),
        losses=tuple(map(_loss, values.get("losses", ()))),
        not_checked=_word("not_checked", values.get("not_checked")),
        undecided=tuple(map(_undecided, values.get("undecided", ()))),
        num_steps=values.get("num_steps"),
        num_skipped=values.get("num_skipped"),
    )


def _check_schema(values, what):
    if not isinstance(values, dict) or "schema" not in values:
        raise TypeError(f"there is no {what} with a `schema` in it")
    schema = values["schema"]
    if not isinstance(schema, int) or schema < 1:
        raise ValueError(f"it has the schema {schema!r}")
    if schema > SCHEMA:
        raise ValueError(
            f"it has schema {schema} of a later version of keras_gradguard, "
            f"and this version reads schema {SCHEMA}: upgrade keras_gradguard, "
            "or write the file again"
        )


def diagnosis_of(values):
    """Makes a `Diagnosis` of what `Diagnosis.to_dict` returns.

    Args:
        values: A dict.

    Raises:
        KeyError, TypeError, ValueError: If the dict is not one of a diagnosis.
    """
    _check_schema(values, "diagnosis")
    values = _known(Diagnosis, values)
    _expect("kind", values["kind"], KINDS)
    _expect("severity", values["severity"], SEVERITIES)
    values["help"] = tuple(map(_help, values.get("help", ())))
    for name in ("snippet", "variables", "path"):
        values[name] = _words(name, values.get(name, []))
    evidence = values.get("evidence", {})
    _words("evidence.notes", evidence.get("notes", []))
    start = evidence.get("snippet_start")
    if not isinstance(start, _COUNT):
        raise TypeError(f"its `evidence.snippet_start` is {start!r}")
    return Diagnosis(**values)


def _help(values):
    values = _known(Help, values)
    patch = values.get("patch")
    if patch is not None:
        patch = _known(Patch, patch)
        changes = [
            (int(line), _words("old lines", old), _words("new lines", new))
            for line, old, new in patch["changes"]
        ]
        values["patch"] = Patch(patch["file"], patch["digest"], tuple(changes))
    return Help(**values)


def _variable(values):
    values = _known(VariableHealth, values)
    values["shape"] = tuple(values["shape"])
    _expect("status", values["status"], STATUSES)
    return VariableHealth(**values)


def _undecided(values):
    values = _known(Undecided, values)
    _expect("status", values["status"], STATUSES)
    values["variables"] = _words("variables", values["variables"])
    return Undecided(**values)


def _optimizer(values):
    values = _known(OptimizerHealth, values)
    values["variables"] = _words("variables", values["variables"])
    return OptimizerHealth(**values)


def _loss(values):
    values = _known(LossReach, values)
    values["reaches"] = tuple(map(bool, values["reaches"]))
    if values.get("norms") is not None:
        values["norms"] = tuple(map(_number, values["norms"]))
    return LossReach(**values)


def _known(record, values):
    """The fields of a record, each of a type that the views can show."""
    fields = {field.name for field in dataclasses.fields(record)}
    known = {name: value for name, value in values.items() if name in fields}
    for name in known.keys() & _FIGURES.keys():
        known[name] = _number(known[name])
    for name, value in known.items():
        if not isinstance(value, _TYPES.get(name, object)):
            raise TypeError(f"its `{name}` is {value!r}")
    return known


def _expect(name, value, known):
    if value not in known:
        raise ValueError(f"its `{name}` is {value!r}")


def _words(name, values):
    if not isinstance(values, list) or not all(
        isinstance(value, str) for value in values
    ):
        raise TypeError(f"its `{name}` is {values!r}, not a list of strings")
    return tuple(values)


def _word(name, value):
    if not isinstance(value, _WORD):
        raise TypeError(f"its `{name}` is {value!r}")
    return value


def _number(value):
    """A number that JSON has no way to write is a word there."""
    is_word = isinstance(value, str) and value in _NOT_FINITE
    return float(value) if is_word else value
