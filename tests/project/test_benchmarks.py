"""The benchmarks run, show what they write, and see what costs time."""

import dataclasses
import io
import json
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import against, results, table
from benchmarks.__main__ import main
from benchmarks.compared.cases import CASES, PERIOD, case_of
from benchmarks.compared.contenders import (
    CONTENDERS,
    EVERY_STEP,
    GUARDED,
    Contender,
)
from benchmarks.compared.models import chain, tiny
from benchmarks.figure import Figure
from benchmarks.measures import memory, size
from benchmarks.measures.copies import counted_reads
from benchmarks.measures.cut import seconds_to_name
from benchmarks.measures.growth import fitted
from benchmarks.rows import Options
from benchmarks.timing.lane import Lane, LaneFailed
from benchmarks.timing.rounds import step_costs


class Sleep(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.005)


def quick(*others):
    contenders = (CONTENDERS[0], *others)
    figures = step_costs(case_of("tiny").quick(), contenders)
    return {figure.what: figure for figure in figures}


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    """The JSON file of `--quick` on the tiny row."""
    path = tmp_path_factory.mktemp("benchmarks") / "results.json"
    main(["--rows", "tiny", "--quick", "--output", str(path)])
    return path


def test_quick_run_measures_everybody_near(quick_run):
    """Each contender without a process of its own has a figure."""
    figures = results.read(quick_run).figures
    near = [who.name for who in CONTENDERS if not who.is_apart]
    assert near == [figure.what for figure in figures]
    assert all(figure.step_ms > 0 for figure in figures)
    assert 1.0 == figures[0].value
    limits = {f.what: f.bar for f in figures}
    assert "at most 1.05" == limits[GUARDED]
    assert "at most 1.15" == limits[EVERY_STEP]
    assert "guard faster" == limits["tape recipe"]


def test_json_has_what_the_table_shows(quick_run):
    """Every cell of the table comes from the file."""
    known = json.loads(quick_run.read_text())
    assert {"date", "device", "versions", "options", "seconds"} <= {*known}
    assert {"tensorflow", "keras", "keras_gradguard"} <= {*known["versions"]}
    shown = table.table_of(results.read(quick_run))
    cells = [list(column.cells) for column in shown.columns]
    for number, figure in enumerate(known["figures"]):
        row, what, step, value, *_, bar, met, note = (
            column[number] for column in cells
        )
        assert what == figure["what"]
        assert float(step) == pytest.approx(figure["step_ms"], rel=0.01)
        assert float(value.split()[0]) == pytest.approx(
            figure["value"], abs=1e-3
        )
        assert (bar, note) == (figure["bar"], figure["note"])
        assert met == {True: "yes", False: "NO", None: ""}[figure["met"]]
    assert known["device"] in shown.title


def test_plot_of_a_run(quick_run, tmp_path):
    """The picture is drawn from the file, also where rows are left out."""
    pytest.importorskip("matplotlib")
    from benchmarks.plot import draw

    draw(results.read(quick_run), tmp_path / "cost.png")
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")


def test_a_cycle_covers_the_callbacks():
    """Five milliseconds in a callback are seen; a tiny step takes one."""
    figures = quick(Contender("sleeping", lambda *_: [Sleep()]))
    assert figures["sleeping"].step_ms > 5
    assert figures["sleeping"].value > 1.5


def test_a_contender_that_fails_is_told_of():
    """The others are measured all the same; a bar is not met by failing."""

    class Broken(Sleep):
        def on_train_batch_end(self, batch, logs=None):
            raise RuntimeError("not today")

    figures = quick(Contender(GUARDED, lambda *_: [Broken()]))
    assert 1.0 == figures["bare"].value
    broken = figures[GUARDED]
    assert broken.value is None
    assert "RuntimeError: not today" in broken.note
    assert broken.met is False


def test_a_lane_is_one_fit():
    """Its turns have the length that is asked for; the end is the end."""
    begun = []

    class Begun(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            begun.append(self)

    who = Contender("one", lambda *_: [Begun()])
    lane = Lane(who.trainer(case_of("tiny")))
    assert [3, 2] == [len(lane.take_turn(number)) for number in (3, 2)]
    lane.close()
    assert 1 == len(begun)
    with pytest.raises(LaneFailed, match="ended already"):
        lane.take_turn(1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "who", [c for c in CONTENDERS if c.is_apart], ids=lambda c: c.name
)
def test_contenders_in_processes_of_their_own(who):
    """They answer with the seconds of each step, and end when told to."""
    case = dataclasses.replace(case_of("tiny").quick(), rounds=1)
    (figure,) = step_costs(case, [dataclasses.replace(who, against=who.name)])
    assert figure.step_ms > 0, figure.note


def test_turns_hold_whole_periods():
    """No record falls out of the steps that count."""
    for case in CASES:
        assert 0 == case.steps % PERIOD == case.settle % PERIOD


def test_a_cut_is_named():
    """The clock stops at a warning with the line, or not at all."""
    assert seconds_to_name(chain(20)) > 0
    assert seconds_to_name(tiny()) is None


@pytest.mark.parametrize("scalars", size.LIMITS)
def test_size_of_the_log(scalars):
    records = 200
    whole = size.num_bytes(scalars, records)
    assert whole / records <= size.LIMITS[scalars]


def test_objects_do_not_grow():
    objects, _ = memory.growth(True, 10 * memory.LOOKS)
    assert objects <= memory.MOST_OBJECTS


def test_reads_are_counted():
    """Each way out of a tensor counts, and nothing stays behind."""
    tensor = tf.zeros([5])
    before = type(tensor).numpy, type(tensor).__array__, np.array, np.asarray
    reads_of = (
        lambda: tensor.numpy(),
        lambda: np.asarray(tensor),
        lambda: np.array(tensor),
        lambda: keras.ops.convert_to_numpy(tensor),
    )
    for read in reads_of:
        with counted_reads() as reads:
            read()
            np.asarray([1, 2])
        assert 5 * 4 == max(reads)
    after = type(tensor).numpy, type(tensor).__array__, np.array, np.asarray
    assert before == after


@pytest.mark.parametrize("power,met", [(1, True), (2, False)])
def test_growth_is_linear_or_not(power, met):
    """A square law does not meet the bar."""
    numbers = (10, 100, 1000)
    seconds = [1e-6 * number**power for number in numbers]
    figure = fitted("variables", "cost", "variable", numbers, seconds)
    assert met is figure.met
    assert f"exponent {power}.00" in figure.note
    assert [list(numbers), [1e3 * s for s in seconds]] == [
        list(values) for values in zip(*figure.points, strict=True)
    ]


def test_unmeasured_is_not_met():
    """A bar needs a figure."""
    assert Figure("row", "what", 1.0).held_to(1.0).met is True
    assert Figure("row", "what", 1.1).held_to(1.0).met is False
    assert Figure("row", "what", None).held_to(1.0).met is False


def test_unknown_row():
    """The names that there are are told."""
    with pytest.raises(SystemExit, match="rows: tiny, dense"):
        main(["--rows", "tinny"])


def test_two_commits_turn_by_turn():
    """Both packages are measured by the benchmarks of now."""
    options = Options(quick=True)
    found = against.compare("HEAD", ["tiny"], options)
    old, new, unit = found["tiny", GUARDED]
    assert (1, 1, "x") == (len(old), len(new), unit)
    file = io.StringIO()
    against.show(found, "HEAD", file)
    assert GUARDED in file.getvalue()
    ratio = f"{new[0] / old[0]:.2f}"
    assert ratio in file.getvalue()


def test_revision_that_nobody_knows():
    """The error says which one was asked for."""
    with pytest.raises(SystemExit, match="revision 'no-such-commit'"):
        against.compare("no-such-commit", ["tiny"], Options(quick=True))
