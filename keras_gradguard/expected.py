"""Step 4: variables that are meant to get no gradient; accepted breaks."""

import dataclasses
import os
import re

from keras_gradguard.baseline import Baseline

# The pooler of a pretrained encoder of which the token outputs alone are used.
# Names: Hugging Face `bert/pooler/dense/kernel` (huggingface/transformers#2256,
# #5427; of RoBERTa: #1727) and `albert/pooler/kernel` (transformers,
# modeling_tf_albert.py), ALBERT-TF2.0 `albert_model/pooler_transform/kernel`
# (kamalkraj/ALBERT-TF2.0#18), KerasHub `pooled_dense/kernel` (keras_hub,
# bert_backbone.py).
POOLER = (
    r"([^/]/pooler(/dense)?|(^|/)pooler_transform|(^|/)pooled_dense)"
    r"/(kernel|bias)(#\d+)?$"
)

# A classifier at the side that is trained without a loss of its own. Names:
# GoogLeNet and Inception v3 `AuxLogits/...` (TF-slim, inception_v3.py),
# `aux_logits/...`, `aux_1/...` and `auxiliary_output_1/...` (ports of GoogLeNet
# to Keras), Hugging Face segmentation `auxiliary_head/...` (transformers,
# modeling_tf_data2vec_vision.py).
AUXILIARY_HEAD = (
    r"(^|/)(AuxLogits|(aux|auxiliary)"
    r"(_?\d+|_(head|classifier|logits|output)s?(_?\d+)?))/"
)


class Expected:
    """Patterns of variables without a gradient, and files of breaks.

    Args:
        patterns: One or several of: regular expressions (a variable is
            expected if one of them finds something in its path, by
            `re.search`); paths (`os.PathLike`) of reports as JSON, whose
            breaks are accepted.

    Raises:
        ValueError: If one is neither.
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
        """Returns whether the variable at `path` may go without."""
        return any(pattern.search(path) for pattern in self._patterns)

    def strip(self, findings):
        """Takes expected variables out of findings, and empty findings."""
        kept = []
        for finding in findings:
            paths = tuple(p for p in finding.variables if not self.covers(p))
            if paths:
                kept.append(dataclasses.replace(finding, variables=paths))
        return kept

    def accept(self, diagnoses):
        """Makes notes of the diagnoses that a file accepts.

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
        raise _error(pattern, "paths are texts, not bytes")
    return compiled


def _error(given, reason):
    return ValueError(
        "`expect` takes regular expressions of variable paths, such as "
        'r"pooler/", and `pathlib.Path`s of files of accepted breaks. '
        f"Received: {given!r}, which is neither: {reason}"
    )
