"""Event files and incidents go to disk where there is no TensorFlow."""

import pathlib
import subprocess
import sys

SCRIPT = """
import pathlib, sys, types

# As TensorBoard asks it: is there to be no TensorFlow?
sys.modules["tensorboard.compat.notf"] = types.ModuleType("notf")
import numpy as np
from tensorboard.backend.event_processing.event_file_loader import (
    EventFileLoader,
)
from keras_gradguard.report.thinning import Record
from keras_gradguard.report.layout import Schema
from keras_gradguard.report.writer import SummaryWriter
from keras_gradguard.records.health import VariableHealth

folder = sys.argv[1]
writer = SummaryWriter(folder + "/logs")
rows = (VariableHealth("a/k", (2,), 1.5),)
norms = np.array([1.5])
for step in range(3):
    writer.write_record(Schema(rows), Record(step, step, norms, norms, 1.5))
(file,) = pathlib.Path(folder, "logs/gradients").iterdir()
events = list(EventFileLoader(str(file)).Load())
writer.close()
assert len(events) >= 4, events
assert [e.step for e in events[-3:]] == [0, 1, 2], events

from keras_gradguard.report.incident import (
    Incident,
    read_incident,
    write_incident,
)

kept = Incident(
    step=3,
    epoch=None,
    batch={"tuple": [{"tensor": ["b0", "float32"]}, {"none": True}]},
    weights=(("w0", "float32"),),
    names=(("a/k", (2,)),),
    paths=("a/k",),
    hit=("a/k",),
    mode="eager",
    arrays={"b0": np.ones([8, 4], "f4"), "w0": np.ones(2, "f4")},
)
write_incident(folder + "/logs/incidents/step_3", kept)
read = read_incident(folder + "/logs/incidents/step_3")
assert (8, kept.batch, kept.names) == (read.batch_size, read.batch, read.names)
assert ["b0"] == [*read.batch_arrays]

open(folder + "/file", "w").close()
for blocked in (folder + "/file", "nowhere://folder"):
    try:
        writer = SummaryWriter(blocked)
        writer.write_record(Schema(rows), Record(0, 0, norms, norms, 1.5))
    except OSError as error:
        print(error)
    else:
        raise AssertionError(blocked)
assert not {"tensorflow", "keras"} & set(sys.modules)
"""


def test_without_tensorflow(tmp_path):
    """Records can be read at once; an unwritable folder is an `OSError`."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    first, second = done.stdout.splitlines()
    for line in (first, second):
        assert line.startswith("cannot write TensorBoard summaries to")
    assert "nowhere" in second
