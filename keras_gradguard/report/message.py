"""What every view of a diagnosis says, in the order it says it."""

import pathlib

from keras_gradguard.records import SCHEMA

MOST_VARIABLES = 8
SUSPECTED = "suspected, not proved: the most likely cause, not a measured one"


def headline(diagnosis):
    """Returns the line that makes sense alone."""
    return (
        f"{diagnosis.severity}[{diagnosis.code}] {diagnosis.name}: "
        f"{diagnosis.message}"
    )


def place(diagnosis):
    """Returns `file:line in function`, the file as seen from here."""
    path = seen_from_here(diagnosis.file)
    line = "" if diagnosis.line is None else f":{diagnosis.line}"
    function = diagnosis.function
    return f"{path}{line}" + (f" in {function}" if function else "")


def seen_from_here(path):
    """Returns a path relative to the present folder if it lies below it.

    Args:
        path: A path as text.
    """
    known, here = pathlib.Path(path), pathlib.Path.cwd()
    if known.is_absolute() and known.is_relative_to(here):
        return str(known.relative_to(here))
    return str(known)


def snippet(diagnosis):
    """Returns the numbered source lines, the guilty one marked with `>`."""
    if diagnosis.file is None or diagnosis.line is None:
        return []
    first = diagnosis.evidence.get("snippet_start") or diagnosis.line
    digits = max(2, len(str(first + len(diagnosis.snippet) - 1)))
    lines = []
    for number, source in enumerate(diagnosis.snippet, first):
        mark = ">" if number == diagnosis.line else " "
        lines.append(f"{mark}{number:>{digits}} | {source}".rstrip())
    return lines


def facts(diagnosis):
    """Returns `(label, text)` pairs: all that is known beside the place."""
    pairs = []
    if diagnosis.path:
        ops = " <- ".join(("loss", *diagnosis.path))
        pairs.append(("path", f"{ops} <-X- (variables)"))
    if diagnosis.variables:
        pairs.append(("lost", _lost(diagnosis)))
    pairs.append(("why", diagnosis.why))
    pairs += [("note", note) for note in _notes(diagnosis)]
    pairs.append(("data", _data(diagnosis)))
    return pairs


def count_lost(diagnosis):
    """Returns `k of n trainable variables`."""
    hit, known = len(diagnosis.variables), diagnosis.num_variables
    return f"{hit} of {known} trainable variables"


def change(item):
    """Returns the lines of a `Help`: `-` what goes, `+` what comes."""
    before = (item.before or "").splitlines()
    after = (item.after or "").splitlines()
    return [f"- {line}" for line in before] + [f"+ {line}" for line in after]


def more(diagnosis):
    """Returns the command that says more."""
    return f"python -m keras_gradguard explain {diagnosis.code}"


def figure(value):
    """Returns a measured value in few characters."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(figure(item) for item in value) + "]"
    return str(value)


def _lost(diagnosis):
    paths = _without_model(diagnosis)
    names = ", ".join(paths[:MOST_VARIABLES])
    if len(paths) > MOST_VARIABLES:
        names += f", ... (+{len(paths) - MOST_VARIABLES} more)"
    count = count_lost(diagnosis)
    return f"{count}: {names}" if names else count


def _without_model(diagnosis):
    """Strips the model's name, which only the full set of paths tells."""
    paths = diagnosis.variables
    first = {path.partition("/")[0] for path in paths}
    is_nested = all(path.count("/") >= 2 for path in paths)
    is_all = len(paths) == diagnosis.num_variables
    if len(first) == 1 and is_nested and is_all:
        return [path.partition("/")[2] for path in paths]
    return paths


def _notes(diagnosis):
    evidence = diagnosis.evidence
    notes = list(evidence.get("notes", ()))
    raised = [
        evidence[key] for key in ("exception", "error") if key in evidence
    ]
    if raised:
        notes.append(": ".join(map(str, raised)))
    if diagnosis.certainty == "suspected":
        notes.append(SUSPECTED)
    return notes


def _data(diagnosis):
    """`key=value, ...` of what stands nowhere else in the message."""
    values = {
        "schema": None if diagnosis.schema == SCHEMA else diagnosis.schema,
        "kind": diagnosis.kind,
        "certainty": diagnosis.certainty,
        "op": diagnosis.op,
        "layer": diagnosis.layer,
        "loss": diagnosis.loss,
        "step": diagnosis.step,
        "epoch": diagnosis.epoch,
        "function": None if diagnosis.file else diagnosis.function,
    }
    values = {key: value for key, value in values.items() if value is not None}
    said = ("notes", "snippet_start", "exception", "error")
    for key, value in diagnosis.evidence.items():
        if key not in said:
            values[key] = value
    return ", ".join(f"{key}={figure(value)}" for key, value in values.items())
