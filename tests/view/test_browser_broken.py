"""Damaged runs beside a sound one: each says so, and no other suffers."""

import pytest

from tests.view.board import Board
from tests.view.forged import CASES, write_all
from tests.view.tab import Tab

GOOD = "good/gradients"
# Not even its list of runs was shown where one of these was.
GRAVE = ["metadata Infinity", "diagnoses deep", "incidents unknown dtype"]
HALF = "diagnoses not JSON"
LATE = "record before negative"


@pytest.fixture(scope="module")
def damaged(driver, tmp_path_factory):
    """A tab over a sound run and all forged ones."""
    folder = tmp_path_factory.mktemp("forged")
    write_all(folder)
    board = Board(folder, is_fast=True)
    try:
        board.until(lambda runs: len(runs) == 1 + len(CASES))
        yield Tab(driver, board)
    finally:
        board.close()


def badges(tab, run):
    """Returns what the list says of a run."""
    box = f"fieldset.runs label:has(input[value='{run}']) .badge"
    return [element.text for element in tab.all(box)]


def test_sound_run_is_shown(damaged):
    damaged.open(runs=[*GRAVE, GOOD])
    names = [element.text for element in damaged.all("section.run .run-name")]
    assert sorted([GOOD, *GRAVE]) == names
    # The records of two of the others can be read.
    assert 3 == len(damaged.all("canvas.map"))
    heads = [element.text for element in damaged.all(".run h2")]
    sound = [head for head in heads if "no diagnosis" in head]
    assert 1 == len(sound) and sound[0].startswith(GOOD)
    faults = [element.text for element in damaged.all(".run .alert")]
    assert len(GRAVE) == len(faults)
    for name, fault in zip(sorted(GRAVE), faults, strict=True):
        assert fault.startswith(f"run {name!r} holds a broken record: ")
        assert ["cannot be read"] == badges(damaged, name)
    assert [] == badges(damaged, GOOD)
    assert [] == damaged.complaints()


def test_half_a_run_is_shown(damaged):
    """Its records can be read, what was told beside them cannot."""
    damaged.open(runs=[HALF])
    assert 1 == len(damaged.all("canvas.map"))
    assert "holds a broken record" in damaged.text(".run .alert")
    # Nobody knows whether there is one.
    assert "no diagnosis" not in damaged.text(".run h2")
    assert ["cannot be read"] == badges(damaged, HALF)
    assert [] == damaged.complaints()


def test_run_that_turns_out_broken(damaged):
    """The list has not read all of it; it takes over what the run says."""
    damaged.open(runs=[GOOD])
    assert [] == badges(damaged, LATE)
    damaged.one(f"fieldset.runs input[value='{LATE}']").click()
    assert "it has the norm -3" in damaged.text(".run .alert")
    assert ["cannot be read"] == badges(damaged, LATE)
    assert 1 == len(damaged.all("canvas.map"))
    (complaint,) = damaged.complaints()
    assert "/norms?" in complaint and "400" in complaint
