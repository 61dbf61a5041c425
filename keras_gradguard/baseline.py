"""Step 5: breaks that were accepted once, and are no alarm any more."""

import dataclasses
import ntpath
import os
import re

from keras_gradguard.stored import read_report

# Jupyter and Colab name a cell anew in each session.
_CELL = re.compile(r"ipykernel_\d+|ipython-input-")


class Baseline:
    """The breaks of a stored report.

    A break is the same one on another machine and with its line moved. One
    that hits a variable that the file does not list is not the same. Steps
    that are NaN or Inf are not accepted: `on_nonfinite` is about them.

    Args:
        path: File that holds what `Report.to_json` returns.

    Raises:
        ValueError: If it does not.
    """

    def __init__(self, path):
        self._name = ntpath.basename(os.fspath(path))
        try:
            diagnoses = read_report(path).diagnoses
        except ValueError as error:
            raise ValueError(
                f"`expect` takes a path as a file of accepted breaks, but "
                f"{error}. Such a file is the report of a training whose "
                "breaks are accepted: "
                f'`pathlib.Path("{self._name}").write_text('
                "callback.report.to_json())`. A pattern of variable paths is "
                "given as a text, not as a path"
            ) from error
        self._variables = {}
        for diagnosis in diagnoses:
            if diagnosis.kind != "nonfinite":
                known = self._variables.setdefault(_mark(diagnosis), set())
                known.update(diagnosis.variables)

    def accepts(self, diagnosis):
        """Returns whether a `Diagnosis` is one of the accepted breaks."""
        known = self._variables.get(_mark(diagnosis))
        return known is not None and known.issuperset(diagnosis.variables)

    def as_note(self, diagnosis):
        """Returns an accepted `Diagnosis` as a note that says so."""
        evidence = dict(diagnosis.evidence)
        notes = evidence.get("notes", ())
        accepted = f"accepted in {self._name}"
        evidence["notes"] = [*notes, accepted]
        return dataclasses.replace(
            diagnosis, severity="note", evidence=evidence
        )


def _mark(diagnosis):
    """What stays the same of a break when lines move and machines change."""
    mark = (diagnosis.code, diagnosis.function, diagnosis.loss)
    if diagnosis.line is None:
        return (*mark, diagnosis.layer, diagnosis.op)
    return (*mark, _base_name(diagnosis.file), _guilty_line(diagnosis))


def _base_name(file):
    # The file may have been written on Windows, whose paths `ntpath` splits
    # as well as those of other systems.
    return "cell" if _CELL.search(file or "") else ntpath.basename(file or "")


def _guilty_line(diagnosis):
    """The text of the line, however it is indented."""
    first = diagnosis.evidence.get("snippet_start")
    if not diagnosis.snippet or not isinstance(first, int):
        return ""
    number = diagnosis.line - first
    lines = diagnosis.snippet[number : number + 1] if number >= 0 else ()
    return " ".join("".join(lines).split())
