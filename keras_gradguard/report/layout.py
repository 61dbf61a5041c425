"""The tags and vectors that the Gradients tab reads.

TensorBoard keeps no NaN apart from Inf in a chart and draws one curve a tag;
the tab wants all variables of a step, so each record is one vector.
"""

import collections
import functools
import hashlib
import json

import numpy as np
from tensorboard.compat.proto import summary_pb2, types_pb2

from keras_gradguard.records.kinds import BROKEN
from keras_gradguard.records.report import finite
from keras_gradguard.records.text import (
    accepted_rows,
    path_from_here,
    verdict_facts,
)

VERSION = 1


class Schema:
    """The variables of a training, as the rows of its records.

    Args:
        variables: A `VariableHealth` for each row.

    Attributes:
        keys: What tells each row from all others.
        layers: The layer of each row, `""` for a variable outside of one.
    """

    def __init__(self, variables):
        self._variables = tuple(variables)
        self.keys = tuple(variable.key for variable in self._variables)
        self.layers = tuple(layer_of(v.path) for v in self._variables)

    def __len__(self):
        return len(self._variables)

    @functools.cached_property
    def text(self):
        """The JSON that is written: an object with `version` and `variables`.

        Each variable has `path`, `shape` and `dtype` as in `VariableHealth`,
        and `key` and `optimizer` where the path does not tell all; `whole`
        adds the rest.
        """
        rows = []
        for variable in self._variables:
            row = {
                "path": variable.path,
                "shape": list(variable.shape),
                "dtype": variable.dtype,
            }
            if variable.optimizer is not None:
                row |= {"key": variable.key, "optimizer": variable.optimizer}
            rows.append(row)
        known = {"version": VERSION, "variables": rows}
        return json.dumps(known, separators=(",", ":"))

    @functools.cached_property
    def name(self):
        """Eight hexadecimal digits that stand for the set of variables."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:8]

    @functools.cached_property
    def groups(self):
        """The numbers of the rows of each layer, by layer in model order."""
        groups = collections.defaultdict(list)
        for number, layer in enumerate(self.layers):
            groups[layer or self.keys[number]].append(number)
        return dict(groups)


def layer_of(path):
    """Returns the Keras path of the layer that holds a variable.

    Args:
        path: Its unique path; a `#2` at its end is one of the layer, since
            that is what Keras has named twice.
    """
    name, mark, number = path.partition("#")
    layer = name.rpartition("/")[0]
    return layer + mark + number if layer else ""


def whole(row):
    """Returns a variable of a schema that was read, with all its fields.

    Args:
        row: A dict with `path`, see `Schema.text`.
    """
    path = row["path"]
    known = {"key": path, "layer": layer_of(path), "optimizer": None}
    return {**known, **row}


PLUGIN = "keras_gradguard"
SCHEMA, RECORD = "gradguard/schema/", "gradguard/record/"
WINDOW = "gradguard/window"
# What follows is a name of the training: TensorBoard keeps one value of a tag
# and step, and the next training may begin at the step where one has ended.
DIAGNOSES, LOSSES, INCIDENTS, VERDICT = (
    f"gradguard/{kind}/"
    for kind in ("diagnoses", "losses", "incidents", "verdict")
)
# What is written of a verdict is no longer than this.
MOST_FACTS = 20
MOST_LETTERS = 2000
MOST_ACCEPTED = 200


def add_record(summary, schema, record):
    """Adds the numbers of a record to a summary.

    They are one float32 tensor `[2, variables]`: the norms and the update
    ratios. A window of several records has a float64 vector too: its first
    step, how many records it holds, and the worst norm over all gradients.

    Args:
        summary: A `Summary` of TensorBoard.
        schema: The `Schema` of its variables.
        record: A `Record`.
    """
    tag, *window = vector_tags(schema, record)
    numbers = np.array([record.norms, record.updates], "<f4")
    _add_numbers(summary, tag, numbers, types_pb2.DT_FLOAT)
    if window:
        whole = (record.first_step, record.number, record.global_norm)
        numbers = np.array(whole, "<f8")
        _add_numbers(summary, *window, numbers, types_pb2.DT_DOUBLE)


def _add_numbers(summary, tag, numbers, kind):
    value = summary.value.add(tag=tag)
    value.tensor.dtype = kind
    for size in numbers.shape:
        value.tensor.tensor_shape.dim.add(size=size)
    value.tensor.tensor_content = numbers.tobytes()


def vector_tags(schema, record):
    """Returns the tags of what `add_record` adds.

    Args:
        schema: The `Schema`.
        record: The `Record`.
    """
    tag = RECORD + schema.name
    return (tag, WINDOW) if record.number > 1 else (tag,)


def add_text(summary, tag, text):
    """Adds a text to a summary; returns the value that was added.

    Args:
        summary: A `Summary` of TensorBoard.
        tag: The tag.
        text: The text.
    """
    value = summary.value.add(tag=tag)
    value.tensor.dtype = types_pb2.DT_STRING
    value.tensor.tensor_shape.SetInParent()
    value.tensor.string_val.append(text.encode(errors="replace"))
    return value


def json_of(content):
    """Returns content as JSON; NaN and Inf become strings."""
    return json.dumps(finite(content))


def mark_for_tab(summary, tags):
    """Says of some tags that they are the tab's.

    TensorBoard asks for it once a tag; in each event it would be most of
    what is written.

    Args:
        summary: A `Summary` of TensorBoard.
        tags: The tags.
    """
    content = json_of({"version": VERSION}).encode()
    for value in summary.value:
        if value.tag in tags:
            value.metadata.plugin_data.plugin_name = PLUGIN
            value.metadata.plugin_data.content = content
            value.metadata.data_class = summary_pb2.DATA_CLASS_TENSOR


def diagnosis_record(diagnosis):
    """Returns a diagnosis as JSON-ready values for the tab.

    Event files are passed on to others: a file below the present folder is
    named from there.

    Args:
        diagnosis: A `Diagnosis`.
    """
    known = diagnosis.to_dict()
    if diagnosis.file is not None:
        known["file"] = path_from_here(diagnosis.file)
    return known


def losses_record(schema, losses):
    """Returns the losses x variables matrix as JSON-ready values.

    Args:
        schema: The `Schema`, whose rows are the columns of `losses`.
        losses: `LossReach`s.
    """
    steps = (loss.step for loss in losses if loss.step is not None)
    return {
        "step": next(steps, None),
        "variables": list(schema.keys),
        "terms": [loss.to_dict() for loss in losses],
    }


def verdict_record(report, has_ended):
    """Returns the verdict of a report as JSON-ready values of a bounded size.

    While a training runs it may be broken already; every other verdict takes
    its end.

    Args:
        report: The `Report`.
        has_ended: Whether its training is over.

    Returns:
        A dict: `verdict` (or `None`), `has_ended`, `facts` (texts, see
        `verdict_facts`) and `accepted` (keys of rows by their status).
    """
    known = report.verdict
    facts = [_one_line(fact) for fact in verdict_facts(report, has_ended)]
    if len(facts) > MOST_FACTS:
        hidden = len(facts) - MOST_FACTS + 1
        facts[MOST_FACTS - 1 :] = [f"(+{hidden} more)"]
    accepted = collections.defaultdict(list)
    for (status, _), keys in accepted_rows(report).items():
        accepted[status] += [key for key in keys if key == _one_line(key)]
    return {
        "verdict": known if has_ended or known == BROKEN else None,
        "has_ended": has_ended,
        "facts": facts,
        "accepted": {s: keys[:MOST_ACCEPTED] for s, keys in accepted.items()},
    }


def _one_line(text):
    """A text without line breaks and control characters, not too long."""
    text = " ".join(text.split())
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    if len(text) > MOST_LETTERS:
        text = text[: MOST_LETTERS - 1] + "\u2026"
    return text
