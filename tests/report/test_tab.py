"""What is written for the Gradients tab, and how often."""

import dataclasses
import json

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import (
    EventFileLoader,
)
from tensorboard.compat.proto import summary_pb2
from tensorboard.util import tensor_util

from keras_gradguard.records.health import VariableHealth
from keras_gradguard.report.layout import Schema, whole
from keras_gradguard.report.writer import SummaryWriter
from tests.report.records import schema_of, write_norms
from tests.report.test_summaries import DIAGNOSIS

NORMS = {"a/k": 1.0, "a/b": None, "c": 0.0}


def values(folder):
    """Returns `(step, value)` of all that our tab reads."""
    return [
        (event.step, value)
        for path in sorted((folder / "gradients").iterdir())
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
        if value.tag.startswith("gradguard/")
    ]


def text(value):
    return json.loads(tensor_util.make_ndarray(value.tensor).item())


@pytest.fixture
def writer(tmp_path):
    made = SummaryWriter(tmp_path)
    yield made
    made.close()


def test_one_tensor_a_record(writer, tmp_path):
    for step in range(3):
        write_norms(writer, step, 1.0, NORMS, ratios={"a/k": 0.5})
    name = schema_of(tuple(NORMS)).name
    found = values(tmp_path)
    records = [v for _, v in found if v.tag == f"gradguard/record/{name}"]
    assert len(records) == 3
    assert len(found) == 5
    numbers = tensor_util.make_ndarray(records[1].tensor)
    assert numbers.dtype == np.float32
    assert [[1, -1, 0], [0.5, -2, -2]] == numbers.tolist()


def test_schema_once_for_each_set_of_variables(writer, tmp_path):
    for norms in (NORMS, NORMS, {"a/k": 1.0}, NORMS):
        write_norms(writer, 0, 1.0, norms)
    schemas = [v for _, v in values(tmp_path) if "/schema/" in v.tag]
    assert len({v.tag for v in schemas}) == len(schemas) == 2
    known = text(schemas[0])
    assert known["version"] == 1
    assert known["variables"] == [
        {"path": path, "shape": [2], "dtype": "float32"}
        for path in ("a/k", "a/b", "c")
    ]
    layers = {
        row["path"]: row["layer"] for row in map(whole, known["variables"])
    }
    assert layers == {"a/k": "a", "a/b": "a", "c": ""}


def test_schema_of_several_updates_of_a_variable():
    """The key and the optimizer are told where the path does not tell all."""
    rows = [
        VariableHealth("a/k", (2,), "float32", optimizer=name)
        for name in ("first", "second")
    ]
    known = json.loads(Schema(rows).text)["variables"]
    for row, told in zip(rows, known, strict=True):
        assert whole(told)["key"] == row.key
        assert whole(told)["optimizer"] == row.optimizer


def test_layer_of_a_name_that_repeats():
    """`#2` belongs to the layer: Keras has named it twice."""
    schema = schema_of(("m/proj/kernel", "m/proj/kernel#2"))
    assert ("m/proj", "m/proj#2") == schema.layers


def test_metadata_once_for_each_tag_and_file(writer, tmp_path):
    """In each event it would be most of what is written."""
    for _ in range(2):
        for step in range(2):
            write_norms(writer, step, 1.0, NORMS)
            writer.write_diagnosis(step, DIAGNOSIS)
        writer.close()
    for path in (tmp_path / "gradients").iterdir():
        marked = [
            value.tag
            for event in EventFileLoader(str(path)).Load()
            for value in event.summary.value
            if value.metadata.plugin_data.plugin_name == "keras_gradguard"
        ]
        assert len(set(marked)) == len(marked) == 3
    for _, value in values(tmp_path):
        if value.HasField("metadata"):
            kind = value.metadata.data_class
            assert summary_pb2.DATA_CLASS_TENSOR == kind
            content = json.loads(value.metadata.plugin_data.content)
            assert content == {"version": 1}


def test_diagnoses_are_all_told_each_time(writer, tmp_path, monkeypatch):
    """The file below the present folder is named from there."""
    monkeypatch.chdir(tmp_path)
    here = dataclasses.replace(DIAGNOSIS, file=str(tmp_path / "train.py"))
    writer.write_diagnosis(3, here)
    writer.write_diagnosis(4, dataclasses.replace(here, code="GG104"))
    (_, first), (_, second) = values(tmp_path)
    (known,) = text(first)["items"]
    assert known == {**here.to_dict(), "file": "train.py"}
    assert ["GG102", "GG104"] == [d["code"] for d in text(second)["items"]]
