"""What cannot be read is said of its run; the others are shown."""

import argparse
import json

import pytest
from tensorboard.compat.proto import event_pb2

from keras_gradguard.report.event_file import EventFile
from keras_gradguard.report.layout import (
    DIAGNOSES,
    RECORD,
    SCHEMA,
    add_text,
    mark_for_tab,
)
from keras_gradguard.report.writer import SummaryWriter
from keras_gradguard.view.loader import MOST_RECORDS, GradGuardLoader
from tests.report.records import schema_of, write_norms
from tests.view.served import Served

NAME = schema_of(("a/k",)).name
TOLD = DIAGNOSES + "0123abcd"
TRAINING = {"version": 1, "begin": 0, "started": 0.5}


@pytest.fixture
def good(tmp_path):
    writer = SummaryWriter(tmp_path / "good")
    write_norms(writer, 0, 1.0, {"a/k": 1.0})
    writer.close()
    return tmp_path


def write(folder, version, **texts):
    """Writes texts, by tag, as a version of ours would."""
    file = EventFile(str(folder / "bad"))
    for tag, text in texts.items():
        event = event_pb2.Event(step=0)
        add_text(event.summary, tag, text)
        mark_for_tab(event.summary, {tag})
        value = event.summary.value[0]
        content = json.dumps({"version": version}).encode()
        value.metadata.plugin_data.content = content
        file.write(event)
    file.close()


def runs(folder):
    served = Served(folder)
    known = {run["run"]: run for run in served.json("runs")["runs"]}
    assert known["good/gradients"]["error"] is None
    assert served.table("good/gradients")["norms"] == [[1.0]]
    assert served.get("/data/plugins_listing").status_code == 200
    return served, known["bad"]


def test_later_version(good):
    write(good, 2, **{TOLD: "not even JSON"})
    served, bad = runs(good)
    assert "later version" in bad["error"]
    assert "upgrade keras_gradguard" in bad["error"]
    for route in ("norms", "details"):
        assert "later version" in served.refused(route, run="bad")


def test_later_version_inside(good):
    content = json.dumps({"version": 2, "items": []})
    write(good, 1, **{TOLD: content})
    _, bad = runs(good)
    assert "later version" in bad["error"]


BROKEN = ["{", "[]", "null", "{}", '{"version": "x"}', '{"version": 1}']
BROKEN += [json.dumps({**TRAINING, "items": 3}), json.dumps(TRAINING)]
BROKEN += [json.dumps({**TRAINING, "items": [], "begin": "now"})]


@pytest.mark.parametrize("text", BROKEN)
def test_broken_text(good, text):
    write(good, 1, **{TOLD: text})
    served, bad = runs(good)
    assert "holds a broken record" in bad["error"]
    assert "holds a broken record" in served.refused("details", run="bad")


@pytest.mark.parametrize(
    "item", [{}, [], {"schema": 1}, {"schema": 7}, {"schema": 1, "help": 3}]
)
def test_broken_diagnosis(good, item):
    content = json.dumps({**TRAINING, "items": [item]})
    write(good, 1, **{TOLD: content})
    served, bad = runs(good)
    assert "a diagnosis that cannot be read" in bad["error"]
    assert bad["error"] == served.refused("details", run="bad")


@pytest.mark.parametrize("rows", [None, 3, [3], [{"path": "a"}]])
def test_broken_schema(good, rows):
    content = json.dumps({"version": 1, "variables": rows})
    write(good, 1, **{SCHEMA + NAME: content, RECORD + NAME: "no numbers"})
    served, bad = runs(good)
    assert f"'{SCHEMA}{NAME}' cannot be read" in bad["error"]
    assert bad["error"] == served.refused("norms", run="bad", columns=9)


def test_text_where_numbers_are_due(good):
    content = schema_of(("a/k",)).text
    write(good, 1, **{SCHEMA + NAME: content, RECORD + NAME: "no numbers"})
    served, bad = runs(good)
    assert "for 1 variables" in bad["error"]
    assert bad["error"] == served.refused("norms", run="bad")


def test_half_written_run(good):
    """Numbers are on disk, and what they stand for is not yet."""
    write(good, 1, **{RECORD + NAME: "no numbers"})
    served, bad = runs(good)
    assert bad["error"] is None
    assert [] == served.table("bad")["columns"]


def test_torn_file(good):
    """A record that is cut in the middle is as good as not there."""
    writer = SummaryWriter(good / "torn")
    for step in range(3):
        write_norms(writer, step, 1.0, {"a/k": 1.0})
    writer.close()
    (path,) = (good / "torn" / "gradients").iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    table = Served(good).table("torn/gradients")
    assert [0, 1] == [column[0] for column in table["columns"]]


@pytest.mark.parametrize("known", [None, "", {}, {"images": 3}])
def test_all_records_are_kept(known):
    flags = argparse.Namespace(samples_per_plugin=known)
    GradGuardLoader().fix_flags(flags)
    kept = flags.samples_per_plugin
    assert kept == {"keras_gradguard": MOST_RECORDS, **(known or {})}


def test_own_number_wins():
    flags = argparse.Namespace(samples_per_plugin={"keras_gradguard": 7})
    GradGuardLoader().fix_flags(flags)
    assert {"keras_gradguard": 7} == flags.samples_per_plugin


def test_more_records_than_others_keep(tmp_path):
    """TensorBoard keeps 10 of each other plugin's, picked by chance."""
    writer = SummaryWriter(tmp_path)
    for step in range(300):
        norm = 5.0 if step == 123 else 1.0
        write_norms(writer, step, norm, {"a/k": norm})
    writer.close()
    table = Served(tmp_path).table("gradients")
    assert len(table["columns"]) == 300
    assert table["norms"][0, 123] == 5.0
