"""Step 5 of 5: what the Gradients tab reads, see `keras_gradguard.view`.

TensorBoard keeps no NaN apart from Inf in a chart and draws one curve a tag;
the tab wants all variables of a step, so each record is one vector.
"""

import json

import numpy as np
from tensorboard.compat.proto import summary_pb2, types_pb2

from keras_gradguard.records import finite
from keras_gradguard.report import message
from keras_gradguard.report.schema import VERSION

PLUGIN = "keras_gradguard"
SCHEMA, RECORD = "gradguard/schema/", "gradguard/record/"
WINDOW = "gradguard/window"
# What follows is a name of the training: TensorBoard keeps one value of a tag
# and step, and the next training may begin at the step where one has ended.
DIAGNOSES, LOSSES, INCIDENTS = (
    f"gradguard/{kind}/" for kind in ("diagnoses", "losses", "incidents")
)


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
    cells = np.array([record.norms, record.updates], "<f4")
    _add_numbers(summary, tag, cells, types_pb2.DT_FLOAT)
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


def mark(summary, tags):
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
        known["file"] = message.seen_from_here(diagnosis.file)
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
