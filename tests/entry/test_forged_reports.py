"""Stored reports that nobody's `to_json` has written, on the command line."""

import json
import os
import time

import pytest

from keras_gradguard.__main__ import main
from keras_gradguard.records.health import OptimizerHealth, VariableHealth
from keras_gradguard.records.report import Diagnosis, Help, Patch, Report
from tests.entry.forging import DEEP, HOSTILE, UNSEEN, places, replaced


def report():
    """A report with something of each kind."""
    patch = Patch("loss.py", "0" * 64, ((3, ("    old",), ("    new",)),))
    item = Help("use the soft value", "a = b", "a = c", "checked", patch)
    found = Diagnosis(
        code="GG104",
        name="argmax",
        kind="disconnected",
        severity="error",
        certainty="proved",
        message="`ArgMax` returns integers",
        why="Integers have no gradient.",
        help=(item,),
        file="loss.py",
        line=3,
        function="loss",
        snippet=("def loss(t, p):", "    x = 1", "    old"),
        variables=("dense/kernel",),
        num_variables=2,
        path=("loss", "Mean", "ArgMax"),
        op="ArgMax",
        layer="dense",
        loss="loss",
        step=0,
        epoch=0,
        evidence={"notes": ["a note"], "snippet_start": 1, "loss_scale": 2.0},
    )
    return Report(
        diagnoses=(found,),
        variables=(
            VariableHealth("dense/kernel", (4, 2), "float32", status="missing"),
        ),
        global_norm=1.0,
        step=3,
        optimizers=(OptimizerHealth("optimizer", ("dense/kernel",)),),
        num_steps=4,
        not_checked="the rest",
    )


def corpus():
    """Texts of forged reports: each place holds each hostile value."""
    values = json.loads(report().to_json())
    whole = json.dumps(values)
    yield from (whole[:n] for n in range(0, len(whole), 97))
    yield from (DEEP, whole.replace('"a note"', DEEP), "\x00", "\ufeff{}")
    for place in places(values):
        for other in HOSTILE:
            yield json.dumps(replaced(values, place, other))


@pytest.fixture(scope="module")
def texts():
    """The corpus."""
    found = list(corpus())
    assert len(found) > 500
    return found


@pytest.mark.parametrize("command", ["report", "fix"])
def test_one_sentence_or_the_report(command, texts, tmp_path, capsys):
    """No traceback, no fault of our own, and nothing that moves a cursor."""
    file = tmp_path / "report.json"
    for text in texts:
        file.write_text(text, encoding="utf-8")
        code = main([command, str(file)])
        said = capsys.readouterr()
        assert UNSEEN.search(said.out + said.err) is None, text[:3000]
        assert "GG900" not in said.err, (said.err[:500], text[:3000])
        if code == 2:
            assert said.err.startswith("keras-gradguard: "), said.err[:300]
            assert len(said.err) < 2_000, text[:3000]
            assert command == "fix" or said.out == ""
        else:
            assert code in (0, 1)


@pytest.mark.parametrize("command", ["report", "fix"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "bytes", "gone"])
def test_what_is_no_file(command, kind, tmp_path, capsys):
    """A pipe that nobody writes to must not be waited for."""
    path = tmp_path / "report.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "bytes":
        path.write_bytes(b"\xff\xfe\x00{")
    elif kind == "device":
        path = "/dev/zero"
    begin = time.monotonic()
    assert main([command, str(path)]) == 2
    assert time.monotonic() - begin < 60
    assert capsys.readouterr().err.startswith("keras-gradguard: ")
