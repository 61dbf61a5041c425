"""Event files are read back the way TensorBoard reads them."""

import dataclasses
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.data_provider import (
    MultiplexerDataProvider,
)
from tensorboard.backend.event_processing.event_file_loader import (
    EventFileLoader,
)
from tensorboard.backend.event_processing.plugin_event_accumulator import (
    EventAccumulator,
)
from tensorboard.backend.event_processing.plugin_event_multiplexer import (
    EventMultiplexer,
)
from tensorboard.compat.proto import summary_pb2
from tensorboard.context import RequestContext

from keras_gradguard.records.report import Diagnosis, Help
from keras_gradguard.report.scalars import LARGEST
from keras_gradguard.report.writer import SummaryWriter
from tests.report.records import write_norms

DIAGNOSIS = Diagnosis(
    code="GG102",
    name="comparison",
    kind="disconnected",
    severity="error",
    message="`Greater` turns a score into true or false",
    why="A truth value cannot change by a little.",
    help=(Help("keep the score soft", "hard = a > 0.5", "soft = a"),),
    file="train.py",
    line=12,
    function="my_loss",
    snippet=("def my_loss(a, b):", "    hard = a > 0.5", "    return hard"),
    op="Greater",
    variables=("dense/kernel", "dense/bias"),
    num_variables=2,
    path=("Mean", "Cast", "Greater"),
    step=3,
    evidence={"snippet_start": 11},
)


@pytest.fixture
def writer(tmp_path):
    with_log_dir = SummaryWriter(tmp_path / "logs")
    yield with_log_dir
    with_log_dir.close()


def files(writer):
    """Returns the event files, the oldest first."""
    names = sorted(os.listdir(writer.folder))
    return [os.path.join(writer.folder, name) for name in names]


def events(writer):
    """Returns the summary events of all files, as they are on disk."""
    found = [e for f in files(writer) for e in EventFileLoader(f).Load()]
    return [event for event in found if event.HasField("summary")]


def scalars(event):
    """Returns the scalars of one event by tag."""
    return {
        v.tag: v.tensor.float_val[0]
        for v in event.summary.value
        if not v.tag.startswith("gradguard/")
    }


def accumulate(writer):
    """Loads the run folder as TensorBoard's slow path does."""
    return EventAccumulator(writer.folder).Reload()


@pytest.fixture
def provide(tmp_path):
    """Loads the whole log folder into the provider of TensorBoard's tabs."""

    def load():
        multiplexer = EventMultiplexer()
        multiplexer.AddRunsFromDirectory(str(tmp_path / "logs")).Reload()
        return MultiplexerDataProvider(multiplexer, str(tmp_path / "logs"))

    return load


def test_nothing_recorded_leaves_nothing_on_disk(tmp_path, writer):
    """Neither file nor folder appears before the first write."""
    writer.flush()
    writer.close()
    assert [] == list(tmp_path.iterdir())


def test_one_event_holds_the_whole_record(writer):
    norms = {"dense/kernel": 3.0, "dense/bias": 4.0}
    write_norms(writer, 7, 5.0, norms)
    write_norms(writer, 17, 50.0, norms)
    writer.flush()
    first, second = events(writer)
    assert (7, 17) == (first.step, second.step)
    assert scalars(first) == {
        "gradients/global_norm": 5.0,
        "gradients/count_missing": 0.0,
        "gradients/count_zero": 0.0,
        "gradients/count_nonfinite": 0.0,
        "gradients/dense/kernel": 3.0,
        "gradients/dense/bias": 4.0,
    }
    assert scalars(second)["gradients/global_norm"] == 50.0


def test_missing_gradient_is_written_and_counted(writer):
    """A missing gradient is a value of its tag at every step."""
    write_norms(writer, 0, None, {"a": None, "b": None, "c": 1.0})
    writer.flush()
    (event,) = events(writer)
    values = scalars(event)
    assert math.isnan(values["gradients/a"])
    assert math.isnan(values["gradients/b"])
    assert math.isnan(values["gradients/global_norm"])
    assert values["gradients/c"] == 1.0
    assert values["gradients/count_missing"] == 2.0
    assert values["gradients/count_nonfinite"] == 0.0


def test_zero_and_nonfinite_are_counted(writer):
    norms = {"a": 0.0, "b": math.inf, "c": math.nan, "d": 0.0, "e": 2.0}
    write_norms(writer, 0, math.nan, norms)
    writer.flush()
    (event,) = events(writer)
    values = scalars(event)
    assert values["gradients/count_missing"] == 0.0
    assert values["gradients/count_zero"] == 2.0
    assert values["gradients/count_nonfinite"] == 2.0
    assert math.isnan(values["gradients/b"])
    assert math.isnan(values["gradients/c"])


@pytest.mark.parametrize(
    ("norm", "written"),
    [(np.float32(0.5), 0.5), (np.float64(2.0), 2.0), (1e300, LARGEST), (3, 3)],
)
def test_any_number_becomes_a_finite_scalar(writer, norm, written):
    write_norms(writer, np.int64(1), norm, {"a": norm})
    writer.flush()
    (event,) = events(writer)
    assert np.float32(written) == scalars(event)["gradients/a"]


def test_tabs_get_every_point(writer, provide):
    """TensorBoard's own provider has all tags, also a NaN-only series."""
    for step in range(20):
        norms = {"dense/kernel": step, "dense/bias": None}
        write_norms(writer, step, 1.0, norms)
    writer.close()
    points = provide().read_scalars(
        RequestContext(),
        experiment_id="",
        plugin_name="scalars",
        downsample=1000,
    )["gradients"]
    assert len(points) == 6
    kernel = points["gradients/dense/kernel"]
    assert list(range(20)) == [p.step for p in kernel]
    assert list(range(20)) == [p.value for p in kernel]
    bias = points["gradients/dense/bias"]
    assert list(range(20)) == [p.step for p in bias]
    assert all(math.isnan(p.value) for p in bias)


def test_diagnosis_is_a_text_card(writer, provide):
    """The card shows the message, the guilty line and the remedy."""
    writer.write_diagnosis(3, DIAGNOSIS)
    tag = "gradients/diagnoses/GG102"
    shown, for_tab = accumulate(writer).Tags()["tensors"]
    assert tag == shown
    assert for_tab.startswith("gradguard/diagnoses/")
    (card,) = provide().read_tensors(
        RequestContext(),
        experiment_id="",
        plugin_name="text",
        downsample=1000,
    )["gradients"][tag]
    text = card.numpy.item().decode()
    assert card.step == 3
    assert DIAGNOSIS.message in text
    assert "train.py:12" in text
    assert "hard = a > 0.5" in text
    assert "keep the score soft" in text


def test_card_belongs_to_the_text_plugin(writer):
    writer.write_diagnosis(3, DIAGNOSIS)
    metadata = accumulate(writer).SummaryMetadata("gradients/diagnoses/GG102")
    assert "text" == metadata.plugin_data.plugin_name
    assert summary_pb2.DATA_CLASS_TENSOR == metadata.data_class


def test_each_diagnosis_has_a_tag_of_its_own(writer):
    """The same diagnosis keeps its tag at a later step."""
    other_line = dataclasses.replace(DIAGNOSIS, line=40)
    other_code = dataclasses.replace(DIAGNOSIS, code="GG104")
    later = dataclasses.replace(DIAGNOSIS, step=9)
    for step, diagnosis in enumerate(
        (DIAGNOSIS, other_line, other_code, later, other_line)
    ):
        writer.write_diagnosis(step, diagnosis)
    assert [e.summary.value[0].tag for e in events(writer)] == [
        "gradients/diagnoses/GG102",
        "gradients/diagnoses/GG102#2",
        "gradients/diagnoses/GG104",
        "gradients/diagnoses/GG102",
        "gradients/diagnoses/GG102#2",
    ]


def test_source_that_is_no_utf8_is_shown_all_the_same(writer):
    snippet = ("x = '\udcff'", "    hard = a > 0.5")
    broken = dataclasses.replace(DIAGNOSIS, snippet=snippet, line=12)
    writer.write_diagnosis(0, broken)
    assert len(events(writer)) == 1


def test_card_and_first_record_are_on_disk_at_once(writer):
    """Another process sees them although the writer stays open."""
    write_norms(writer, 0, 1.0, {"a": 1.0})
    assert len(events(writer)) == 1
    write_norms(writer, 1, 1.0, {"a": 1.0})
    writer.write_diagnosis(1, DIAGNOSIS)
    assert len(events(writer)) == 3
    write_norms(writer, 2, 1.0, {"a": 1.0})
    writer.flush()
    assert len(events(writer)) == 4


def test_write_while_a_function_is_traced(writer):
    """A record needs no TensorFlow operation, so tracing leaves no trace."""

    @tf.function
    def step(x):
        write_norms(writer, 0, 1.0, {"a": 1.0})
        writer.write_diagnosis(0, DIAGNOSIS)
        return x + 1.0

    concrete = step.get_concrete_function(tf.constant(1.0))
    assert len(events(writer)) == 2
    types = {op.type for op in concrete.graph.get_operations()}
    assert {"Placeholder", "Const", "AddV2", "Identity"} >= types


def test_close_twice_then_go_on(writer, provide):
    """A write after `close` begins a new file of the same run."""
    write_norms(writer, 0, 1.0, {"a": 1.0})
    writer.close()
    writer.close()
    writer.flush()
    write_norms(writer, 1, 2.0, {"a": 2.0})
    writer.close()
    assert len(files(writer)) == 2
    assert [0, 1] == [event.step for event in events(writer)]


def test_two_writers_do_not_share_a_file(writer, tmp_path):
    other = SummaryWriter(tmp_path / "logs")
    write_norms(writer, 0, 1.0, {"a": 1.0})
    write_norms(other, 1, 1.0, {"a": 1.0})
    other.close()
    assert len(files(writer)) == 2


def write_a_record(writer):
    write_norms(writer, 0, 1.0, {"a": 1.0})


def write_a_diagnosis(writer):
    writer.write_diagnosis(0, DIAGNOSIS)


@pytest.mark.parametrize("write", [write_a_record, write_a_diagnosis])
@pytest.mark.parametrize("below", ["", "deeper"])
def test_log_dir_is_a_file(tmp_path, write, below):
    """The first write says so, each time; closing stays quiet."""
    (tmp_path / "taken").write_text("")
    log_dir = tmp_path / "taken" / below
    writer = SummaryWriter(log_dir)
    for _ in range(2):
        with pytest.raises(OSError, match="cannot write TensorBoard") as caught:
            write(writer)
        assert str(log_dir) in str(caught.value)
    writer.flush()
    writer.close()


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0,
    reason="nothing is read-only for root",
)
def test_log_dir_is_read_only(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="cannot write TensorBoard"):
        write_a_record(SummaryWriter(tmp_path / "logs"))


def test_disk_fails_while_training(writer, monkeypatch):
    """The error reaches the caller as `OSError`, and `close` ends it."""

    class FullDisk:
        def write(self, record):
            raise tf.errors.ResourceExhaustedError(None, None, "disk full")

        flush = close = lambda self: self.write(b"")

    write_a_record(writer)
    monkeypatch.setattr(writer._file, "_records", FullDisk())
    for action in (write_a_record, SummaryWriter.flush, SummaryWriter.close):
        with pytest.raises(OSError, match="disk full"):
            action(writer)
    writer.close()


def test_import_loads_no_tensorflow():
    code = (
        "import sys, keras_gradguard.report.writer\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
