"""Variables that need no gradient, and accepted findings."""

import dataclasses
import ntpath
import os
import re

from keras_gradguard.records.reading import read_report

# Jupyter and Colab give a cell a new name in each session.
_CELL = re.compile(r"ipykernel_\d+|ipython-input-")


class Baseline:
    """The findings of a stored report.

    A finding still counts as the same on another machine and after its line
    has moved. One that affects a variable not listed in the file is new.
    Steps with NaN or Inf are never accepted; use `on_nonfinite` for them.

    Args:
        path: A file written from `Report.to_json`.

    Raises:
        ValueError: If the file does not hold such a report.
    """

    def __init__(self, path):
        self._name = ntpath.basename(os.fspath(path))
        try:
            diagnoses = read_report(path).diagnoses
        except ValueError as error:
            raise ValueError(
                f"a path given to `expect` must be a baseline file, but "
                f"{error}. To make one, write the report of a training whose "
                "findings you accept: "
                f'`pathlib.Path("{self._name}").write_text('
                "callback.report.to_json())`. Pass a regular expression for "
                "variable paths as a string, not as a path"
            ) from error
        self._variables = {}
        for diagnosis in diagnoses:
            if diagnosis.kind != "nonfinite":
                known = self._variables.setdefault(_mark(diagnosis), set())
                known.update(diagnosis.variables)

    def accepts(self, diagnosis):
        """Returns whether a `Diagnosis` is an accepted one."""
        known = self._variables.get(_mark(diagnosis))
        return known is not None and known.issuperset(diagnosis.variables)

    def as_note(self, diagnosis):
        """Returns an accepted `Diagnosis` as a note that names the file."""
        evidence = dict(diagnosis.evidence)
        notes = evidence.get("notes", ())
        accepted = f"accepted in {self._name}"
        evidence["notes"] = [*notes, accepted]
        return dataclasses.replace(
            diagnosis, severity="note", evidence=evidence
        )


def _mark(diagnosis):
    """What identifies a finding when lines move and machines change."""
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


# The pooler of a pretrained encoder when only its token outputs are used.
# Names: Hugging Face `bert/pooler/dense/kernel` (huggingface/transformers#2256,
# #5427; of RoBERTa: #1727) and `albert/pooler/kernel` (transformers,
# modeling_tf_albert.py), ALBERT-TF2.0 `albert_model/pooler_transform/kernel`
# (kamalkraj/ALBERT-TF2.0#18), KerasHub `pooled_dense/kernel` (keras_hub,
# bert_backbone.py).
POOLER = (
    r"([^/]/pooler(/dense)?|(^|/)pooler_transform|(^|/)pooled_dense)"
    r"/(kernel|bias)(#\d+)?$"
)

# An auxiliary classifier without a loss of its own. Names:
# GoogLeNet and Inception v3 `AuxLogits/...` (TF-slim, inception_v3.py),
# `aux_logits/...`, `aux_1/...` and `auxiliary_output_1/...` (ports of GoogLeNet
# to Keras), Hugging Face segmentation `auxiliary_head/...` (transformers,
# modeling_tf_data2vec_vision.py).
AUXILIARY_HEAD = (
    r"(^|/)(AuxLogits|(aux|auxiliary)"
    r"(_?\d+|_(head|classifier|logits|output)s?(_?\d+)?))/"
)


class Expected:
    """Patterns of variables without a gradient, and baseline files.

    Args:
        patterns: One or several of: regular expressions (a variable is
            expected to have no gradient if `re.search` finds one of them in
            its path); paths (`os.PathLike`) of reports stored as JSON, whose
            findings are accepted.

    Raises:
        ValueError: If an item is neither.
    """

    def __init__(self, patterns=()):
        if isinstance(patterns, (str, bytes, re.Pattern, os.PathLike)):
            patterns = [patterns]
        try:
            patterns = list(patterns)
        except TypeError as error:
            raise _error(patterns, error) from error
        files = [item for item in patterns if isinstance(item, os.PathLike)]
        self._baselines = [Baseline(file) for file in files]
        self._patterns = [
            _compiled(item)
            for item in patterns
            if not isinstance(item, os.PathLike)
        ]

    def covers(self, path):
        """Returns whether the variable at `path` may have no gradient."""
        return any(pattern.search(path) for pattern in self._patterns)

    def strip(self, findings):
        """Removes expected variables from findings, then empty findings."""
        kept = []
        for finding in findings:
            paths = tuple(p for p in finding.variables if not self.covers(p))
            if paths:
                kept.append(dataclasses.replace(finding, variables=paths))
        return kept

    def accept(self, diagnoses):
        """Turns the diagnoses that a baseline file accepts into notes.

        Args:
            diagnoses: `Diagnosis` values.

        Returns:
            `(all, new)`: tuples of `Diagnosis`; accepted ones are notes in
            the first and left out of the second.
        """
        everything, new = [], []
        for diagnosis in diagnoses:
            for baseline in self._baselines:
                if baseline.accepts(diagnosis):
                    everything.append(baseline.as_note(diagnosis))
                    break
            else:
                everything.append(diagnosis)
                new.append(diagnosis)
        return tuple(everything), tuple(new)


def _compiled(pattern):
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise _error(pattern, error) from error
    if isinstance(compiled.pattern, bytes):
        raise _error(pattern, "variable paths are str, not bytes")
    return compiled


def _error(given, reason):
    return ValueError(
        "`expect` takes regular expressions that match variable paths, such as "
        'r"pooler/", and `pathlib.Path`s of baseline files. '
        f"Received: {given!r}, which is neither: {reason}"
    )
