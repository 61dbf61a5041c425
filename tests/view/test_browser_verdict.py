"""The verdict at the top of a run, in words that need no colour."""

import shutil
import warnings

import keras
import pytest
import tensorflow as tf

from keras_gradguard.records.kinds import VERDICTS
from keras_gradguard.report.writer import SummaryWriter
from tests.report.records import write_norms
from tests.view.board import Board
from tests.view.forged import (
    CASES,
    CELLS,
    RECORD_TAG,
    VERDICT,
    Forged,
    recorded,
    text,
)
from tests.view.tab import Tab, grave_faults
from tests.view.test_verdict import MODELS, fit, network

FORGED = [name for name in CASES if name.startswith("verdict ")]
MARKUP = "<img src=x onerror='document.title=1'>"
WORDS = {word: f"{word}/gradients" for word in VERDICTS}
OLD, RUNS, EXPECTED, TALL = (
    f"{name}/gradients" for name in ("old", "runs", "expected", "tall")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run for each verdict, and for each way to have none."""
    made = tmp_path_factory.mktemp("verdicts")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for word, model in MODELS.items():
            fit(made / word, model())
        fit(made / "expected", network(tf.stop_gradient), expect="hidden")
        copy = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda *_, **__: shutil.copytree(
                made / "training", made / "runs", dirs_exist_ok=True
            )
        )
        fit(made / "training", network(), callbacks=[copy])
    shutil.rmtree(made / "training")
    writer = SummaryWriter(made / "old")
    write_norms(writer, 0, 1.0, {"a/k": 1.0})
    writer.close()
    writer = SummaryWriter(made / "tall")
    write_norms(writer, 0, 1.0, dict.fromkeys(map(str, range(99)), 1.0))
    said = {"verdict": "healthy", "has_ended": True, "accepted": {}}
    writer.write_verdict(0, {**said, "facts": ["a long sentence " * 20] * 6})
    writer.close()
    for name in FORGED:
        CASES[name].write(made / name)
    told = text({**VERDICT, "facts": [MARKUP], "accepted": {"zero": [MARKUP]}})
    points = recorded((RECORD_TAG, 1, CELLS), ("gradguard/verdict/x", 0, told))
    Forged((), points).write(made / "markup")
    return made


@pytest.fixture(scope="module", params=[True, False], ids=["fast", "slow"])
def tab(request, driver, folder):
    """A tab over all of them, by either server."""
    board = Board(folder, is_fast=request.param)
    try:
        board.until(lambda runs: len(runs) == 9 + len(FORGED))
        yield Tab(driver, board)
    finally:
        board.close()


def shown(tab, run, ready="section.run .verdict"):
    """Opens a run; returns what stands at its top, and below that."""
    tab.open(runs=[run], ready=ready)
    badges = [element.text for element in tab.all("section.run h2 .verdict")]
    return badges, [element.text for element in tab.all(".run .facts li")]


def listed(tab, run):
    """Returns the verdict in the list of runs."""
    box = f"fieldset.runs label:has(input[value='{run}']) .verdict"
    return [element.text for element in tab.all(box)]


def test_words(tab):
    """Each word has a mark and a colour of its own, and its reasons."""
    badges, colours = {}, set()
    for word, run in WORDS.items():
        badges[word], facts = shown(tab, run)
        assert badges[word] == listed(tab, run)
        colours.add(
            tab.run(
                "return getComputedStyle(document.querySelector("
                "'section.run .verdict')).color"
            )
        )
        assert "4 steps" == facts[-1]
        if word == "undecided":
            (told,) = facts[:-1]
            assert "5 consecutive records, that is, step 4 with every=1" in told
            assert "net/hidden/kernel" in told
        if word == "not checked":
            assert facts[0].startswith("No gradient was seen")
        if word == "broken":
            assert ["1 warning"] == facts[:-1]
        # A screen reader is told the word, not the mark.
        marks = tab.all("section.run .verdict [aria-hidden=true]")
        assert 1 == len(marks)
    assert badges == {
        "broken": ["✗ broken"],
        "healthy": ["✓ healthy"],
        "undecided": ["? undecided"],
        "not checked": ["– not checked"],
    }
    assert 4 == len(colours)
    assert [] == tab.complaints()


def test_no_verdict(tab):
    """A run that trains, and one of an earlier version, claim nothing."""
    badges, facts = shown(tab, RUNS)
    assert ["… no verdict yet"] == badges == listed(tab, RUNS)
    assert ["the training has not ended, or was killed"] == facts
    assert ([], []) == shown(tab, OLD, "canvas.map[data-columns]")
    assert [] == listed(tab, OLD)
    assert "healthy" not in tab.text("section.run")


def test_accepted_row(tab):
    """A missing row below "healthy" says that it is accepted."""
    badges, facts = shown(tab, EXPECTED, "canvas.map[data-columns]")
    assert ["✓ healthy"] == badges
    assert "2 variables missing, accepted (expected): net/hidden" in facts[0]
    badges = [element.text for element in tab.all(".row .badge")]
    assert ["missing, accepted"] * 3 == badges
    assert not tab.all(".row .badge.missing")
    tab.open(runs=[EXPECTED], shape="table", ready=".holder table")
    rows = [element.text for element in tab.all(".holder tbody tr")]
    assert [True, True, True, False] == ["accepted" in row for row in rows[:4]]


def test_rows_have_the_room_that_is_left(tab):
    """However much is said above them, the axis below them is in view."""
    _, facts = shown(tab, TALL, "canvas.map[data-columns]")
    assert 6 == len(facts)
    height = (
        "const list = document.querySelector('.list');"
        "return [list.scrollHeight, list.clientHeight]"
    )
    needed, there = tab.run(height)
    assert needed <= there


def test_forged_verdict(tab):
    """It is an error of that run alone; nothing of it is shown."""
    tab.open(runs=[*FORGED, WORDS["healthy"]])
    tab.until("return document.querySelectorAll('.run .verdict').length > 0")
    count = "return document.querySelectorAll('.run .alert').length"
    tab.until(f"{count} === arguments[0]", len(FORGED))
    assert ["✓ healthy"] == [e.text for e in tab.all("section.run .verdict")]
    alerts = [element.text for element in tab.all(".run .alert")]
    for name, alert in zip(sorted(FORGED), alerts, strict=True):
        assert alert.startswith(f"run {name!r} ")
        assert [] == listed(tab, name)


def test_text_is_text(tab):
    """No markup of a file becomes an element."""
    _, facts = shown(tab, "markup")
    assert [MARKUP] == facts
    assert not tab.all("section.run img")


@pytest.mark.parametrize("query", ["", "?darkMode=true"], ids=["light", "dark"])
def test_axe(query, axe, tab):
    """Each word and its colour can be read."""
    tab.open(query, runs=[*WORDS.values(), EXPECTED, RUNS])
    tab.until("return document.querySelectorAll('.run .verdict').length === 6")
    assert [] == grave_faults(tab, axe)
