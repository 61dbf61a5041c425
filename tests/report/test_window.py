"""A long training takes few records, and no spike is lost."""

import math

import numpy as np
import pytest

from keras_gradguard.records.norms import MISSING, UNMEASURED, worst
from keras_gradguard.report.thinning import NEXT, SINGLE, Window
from keras_gradguard.report.writer import SummaryWriter
from tests.report.records import write_norms
from tests.view.served import Served

ORDER = (UNMEASURED, 0.0, 1e-30, 2.0, MISSING, math.inf, math.nan)


@pytest.mark.parametrize("number", range(len(ORDER)))
def test_worst_of_two(number):
    """Each is worse than all before it, whichever comes first."""
    worse = ORDER[number]
    for other in ORDER[: number + 1]:
        for pair in ([worse, other], [other, worse]):
            found = worst(np.array(pair, np.float32)[:, None])
            np.testing.assert_array_equal(found, [[np.float32(worse)]])


def test_same_signs_as_in_the_graph():
    assert (MISSING, UNMEASURED) == (MISSING, UNMEASURED)
    assert MISSING == MISSING


@pytest.mark.parametrize("where", [1500, SINGLE + 501, SINGLE + 2 * NEXT + 77])
def test_spike_survives(tmp_path, where):
    """One of 5,000 records is larger, and another one has no gradient."""
    writer = SummaryWriter(tmp_path, scalars="global")
    number = SINGLE + 2 * NEXT + 1000
    for step in range(number):
        norm = 7.0 if step == where else 1.0
        other = None if step == where - 100 else 1.0
        total = math.hypot(norm, other or 0.0)
        write_norms(writer, step, total, {"a/k": norm, "b/k": other})
    writer.close()
    table = Served(tmp_path).table("gradients")
    assert len(table["columns"]) == SINGLE + NEXT + 250
    assert number == table["num_records"]
    ends = [column[:2] for column in table["columns"]]
    assert ends[0] == [0, 0]
    assert ends[-1][1] == number - 1
    assert all(a[1] + 1 == b[0] for a, b in zip(ends, ends[1:], strict=False))
    (column,) = np.nonzero(table["norms"][0] == 7.0)[0]
    first, last, _ = table["columns"][column]
    assert first <= where <= last
    assert table["global_norm"][column] == np.float32(math.hypot(7.0, 1.0))
    (column,) = np.nonzero(table["norms"][1] == -1.0)[0]
    first, last, _ = table["columns"][column]
    assert first <= where - 100 <= last
    merged = Served(tmp_path).table("gradients", columns=100)
    assert 7.0 in merged["norms"][0]


def test_few_records_of_a_million():
    window, written = Window(), 0
    for _ in range(12):
        written, size = written + NEXT, window.size
        window._num_taken += NEXT
    assert size == 2**10
    assert written < 20_000


def test_window_that_is_not_full_is_written_at_the_end(tmp_path):
    writer = SummaryWriter(tmp_path, scalars="global")
    for step in range(SINGLE + 1):
        write_norms(writer, step, 1.0, {"a/k": 1.0})
    writer.close()
    table = Served(tmp_path).table("gradients")
    assert table["last_step"] == SINGLE
