"""Several trainings in one run, and how its variables change."""

import dataclasses
import math

import keras
import numpy as np
import pytest

from keras_gradguard import GradHealthCallback
from keras_gradguard.report.writer import SummaryWriter
from tests.report.records import write_norms
from tests.report.test_summaries import DIAGNOSIS
from tests.view.forged import INCIDENT
from tests.view.served import Served

pytestmark = pytest.mark.smoke

RUN = "gradients"
X = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
Y = np.abs(X[:, :1])


def train(folder, begin, number, codes=(), incidents=()):
    """Writes a training: its records, and what is told at its begin."""
    writer = SummaryWriter(folder)
    for code in codes:
        found = dataclasses.replace(DIAGNOSIS, code=code, step=begin)
        writer.write_diagnosis(begin, found)
    for step in range(begin + 1, begin + number + 1):
        write_norms(writer, step, 1.0, {"a/k": 1.0})
    for step in incidents:
        writer.write_incident(step, {**INCIDENT, "step": step})
    writer.close()


def told(folder):
    """Returns the codes of all cards, and the steps of all incidents."""
    known = Served(folder).json("details", run=RUN)
    codes = [card["code"] for card in known["diagnoses"]]
    return codes, [incident["step"] for incident in known["incidents"]]


def test_training_that_goes_on(tmp_path):
    """What the first one has told stays, also of the step where it ended."""
    train(tmp_path, 0, 5, ["GG102"], [3])
    train(tmp_path, 5, 5, ["GG104", "GG106"], [8])
    train(tmp_path, 10, 5)
    assert (["GG102", "GG104", "GG106"], [3, 8]) == told(tmp_path)


def test_training_that_is_made_anew(tmp_path):
    """The mended code has no diagnosis, so there is none any more."""
    train(tmp_path, 0, 5, ["GG102"], [3])
    train(tmp_path, 0, 3)
    assert ([], []) == told(tmp_path)


def test_training_that_goes_back(tmp_path):
    """From a checkpoint in the middle: what is behind it is void."""
    train(tmp_path, 0, 5, ["GG102"], [1, 4])
    train(tmp_path, 2, 5, ["GG104"])
    assert (["GG102", "GG104"], [1]) == told(tmp_path)


def test_losses_of_the_last_training(tmp_path):
    """A model of one loss has no table, and does not keep an older one."""
    entry = keras.Input((4,))
    heads = [keras.layers.Dense(1, name=name)(entry) for name in "ab"]
    losses = []
    for outputs in (heads, heads[:1]):
        model = keras.Model(entry, outputs)
        model.compile("sgd", ["mse"] * len(outputs))
        callback = GradHealthCallback(log_dir=tmp_path)
        y = [Y] * len(outputs)
        model.fit(X, y, batch_size=32, callbacks=[callback], verbose=0)
        details = Served(tmp_path).json("details", run=RUN)
        losses.append(details["losses"])
    assert len(losses[0]["terms"]) == 2
    assert losses[1] is None


def test_run_that_begins_anew(tmp_path):
    """The later training of the same steps is the one that is shown."""
    for factor, number in ((1.0, 9), (2.0, 4)):
        writer = SummaryWriter(tmp_path)
        for step in range(number):
            write_norms(writer, step, 1.0, {"a/b": factor})
        writer.close()
    table = Served(tmp_path).table("gradients")
    assert [0, 1, 2, 3] == [column[0] for column in table["columns"]]
    assert (table["norms"] == 2.0).all()


def test_second_fit_goes_on(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    for _ in range(2):
        callback = GradHealthCallback(log_dir=tmp_path, every=1)
        model.fit(X, Y, batch_size=32, callbacks=[callback], verbose=0)
    steps = Served(tmp_path).table("gradients")["columns"]
    assert [0, 1, 2, 3] == [column[0] for column in steps]


def test_variables_that_come_later(tmp_path):
    """Unfrozen ones get rows at their place in the model."""
    writer = SummaryWriter(tmp_path)
    write_norms(writer, 0, 1.0, {"a/k": 1.0, "c/k": 3.0})
    write_norms(writer, 1, 1.0, {"a/k": 1.0, "b/k": 2.0, "c/k": 3.0})
    writer.close()
    table = Served(tmp_path).table("gradients")
    assert ["a/k", "b/k", "c/k"] == [r["key"] for r in table["variables"]]
    assert [[1, 1], [-2, 2], [3, 3]] == table["norms"].tolist()


def test_all_kinds_of_cells(tmp_path):
    norms = {"a": None, "b": 0.0, "c": math.nan, "d": math.inf, "e": 1e300}
    writer = SummaryWriter(tmp_path)
    write_norms(writer, 0, math.nan, norms)
    writer.close()
    (column,) = Served(tmp_path).table("gradients")["norms"].T
    assert (-1, 0, math.inf) == (column[0], column[1], column[3])
    assert math.isnan(column[2])
    assert 1e38 < column[4] < math.inf
