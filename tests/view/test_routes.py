"""The routes of the tab over event files of real trainings."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback
from keras_gradguard.records.text import (
    change_lines,
    explain_command,
    facts,
    headline,
    path_from_here,
    place,
)
from keras_gradguard.view import plugin
from keras_gradguard.view.decode import Store
from keras_gradguard.view.plugin import asset_names
from tests.view.served import Served

pytestmark = pytest.mark.smoke

RUN = "two heads/gradients"
BAD = "nan <b>bold</b>/deep/gradients"
X = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
Y = np.abs(X[:, :1])


def cut(y_true, y_pred):
    return tf.reduce_mean(tf.cast(y_pred > 0.5, tf.float32), axis=-1)


def rooted(y_true, y_pred):
    return tf.reduce_mean(tf.sqrt(y_pred - 1e6), axis=-1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A log folder and the callback of each of its runs."""
    folder = tmp_path_factory.mktemp("logs")
    keras.utils.set_random_seed(0)
    entry = keras.Input((4,))
    trunk = keras.layers.Dense(8, activation="relu", name="trunk")(entry)
    heads = [keras.layers.Dense(1, name=name)(trunk) for name in "ab"]
    model = keras.Model(entry, heads)
    model.compile("sgd", loss=["mse", cut])
    two = GradHealthCallback(log_dir=folder / "two heads", every=1)
    with pytest.warns(UserWarning):
        model.fit(X, [Y, Y], 8, epochs=2, callbacks=[two], verbose=0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", loss=rooted)
    bad = GradHealthCallback(log_dir=folder / "nan <b>bold</b>/deep")
    with pytest.warns(UserWarning):
        model.fit(X, Y, batch_size=8, callbacks=[bad], verbose=0)
    return folder, {RUN: two, BAD: bad}


@pytest.fixture(scope="module")
def served(trained):
    return Served(trained[0])


def test_runs_with_what_they_hold(served):
    """Nested runs, and names that look like HTML; sorted by name."""
    known = served.json("runs")
    assert known["version"] == 1
    bad, two = known["runs"]
    assert (BAD, RUN) == (bad["run"], two["run"])
    assert (None, None) == (bad["error"], two["error"])
    assert ["norms", "details"] == bad["readable"] == two["readable"]
    assert (1, 1) == (bad["num_diagnoses"], bad["num_incidents"])
    assert (1, 0) == (two["num_diagnoses"], two["num_incidents"])
    assert (0, 2) == (bad["num_losses"], two["num_losses"])
    assert two["last_step"] == 15


def test_list_is_read_once(trained, monkeypatch):
    """A run that has not grown is not read anew, and all others at once."""
    served, reads = Served(trained[0]), []
    read = Store._read

    def counted(self, *known):
        reads.append(known)
        return read(self, *known)

    monkeypatch.setattr(Store, "_read", counted)
    first = served.json("runs")
    assert [([BAD, RUN], None, 1)] == reads
    assert first == served.json("runs")
    assert 1 == len(reads)


def test_table_is_what_the_callback_reports(served, trained):
    table, report = served.table(RUN), trained[1][RUN].report
    paths = [row["path"] for row in table["variables"]]
    assert [row.path for row in report.variables] == paths
    assert ["trunk", "trunk", "a", "a", "b", "b"] == [
        row["layer"] for row in table["variables"]
    ]
    assert [[step, step, 1] for step in range(16)] == table["columns"]
    assert (0, 15, 16) == tuple(
        table[name] for name in ("first_step", "last_step", "num_records")
    )
    norms = [-1 if r.norm is None else r.norm for r in report.variables]
    np.testing.assert_allclose(table["norms"][:, -1], norms, rtol=1e-6)
    assert (table["norms"][4:] == -1).all()
    ratios = [r.update_ratio for r in report.variables[:4]]
    np.testing.assert_allclose(table["updates"][:4, -1], ratios, rtol=1e-6)
    assert (table["updates"][4:] == -2).all()
    last = table["global_norm"][-1]
    np.testing.assert_allclose(last, report.global_norm, rtol=1e-6)


def test_fewer_columns_keep_the_largest(served):
    whole, merged = served.table(RUN), served.table(RUN, columns=3)
    assert [[0, 4, 5], [5, 9, 5], [10, 15, 6]] == merged["columns"]
    for name in ("norms", "updates", "global_norm"):
        parts = np.split(whole[name], [5, 10], axis=-1)
        expected = np.stack([part.max(axis=-1) for part in parts], axis=-1)
        np.testing.assert_array_equal(expected, merged[name])


def test_zoom(served):
    whole, part = served.table(RUN), served.table(RUN, first=4, last=9)
    assert [[step, step, 1] for step in range(4, 10)] == part["columns"]
    np.testing.assert_array_equal(whole["norms"][:, 4:10], part["norms"])
    assert (0, 15) == (part["first_step"], part["last_step"])
    assert [] == served.table(RUN, first=900)["columns"]


def test_nan_stays_nan(served):
    assert np.isnan(served.table(BAD)["norms"]).all()


def test_cards_have_the_words_of_the_console(served, trained):
    (card,) = served.json("details", run=RUN)["diagnoses"]
    (diagnosis,) = trained[1][RUN].report.diagnoses
    assert card["headline"] == headline(diagnosis)
    assert card["place"] == place(diagnosis)
    assert card["facts"] == [list(f) for f in facts(diagnosis)]
    assert card["more"] == explain_command(diagnosis)
    assert card["changes"] == [change_lines(i) for i in diagnosis.help]
    line = card["line"] - card["snippet_first_line"]
    assert "y_pred > 0.5" in card["snippet"][line]
    known = diagnosis.to_dict()
    assert card["file"] == path_from_here(known.pop("file"))
    assert known == {name: card[name] for name in known}


def test_losses(served, trained):
    losses = served.json("details", run=RUN)["losses"]
    report = trained[1][RUN].report
    assert losses["variables"] == [row.key for row in report.variables]
    assert [loss.to_dict() for loss in report.losses] == losses["terms"]
    reached = [True] * 4 + [False] * 2
    assert [reached, [False] * 6] == [t["reaches"] for t in losses["terms"]]


def test_incident(served, trained):
    """The command runs, and the samples are those of the diagnosis."""
    (incident,) = served.json("details", run=BAD)["incidents"]
    folder = trained[0] / "nan <b>bold</b>/deep/incidents/step_0"
    assert str(folder) == incident["folder"]
    command = f"replay '{folder}' --model FILE.py:FUNCTION"
    assert command in incident["command"]
    assert list(range(8)) == incident["samples"]
    assert (0, 8) == (incident["step"], incident["batch_size"])
    (diagnosis,) = trained[1][BAD].report.diagnoses
    assert diagnosis.message == incident["message"]
    assert list(diagnosis.variables) == incident["variables"]


@pytest.mark.parametrize(
    ("route", "query", "words"),
    [
        ("norms", {}, "does not name a run"),
        ("details", {}, "does not name a run"),
        ("norms", {"run": "no"}, "there is no run 'no'"),
        ("details", {"run": "<b>"}, "there is no run '<b>'"),
        ("norms", {"run": RUN, "columns": "many"}, "'many'"),
        ("norms", {"run": RUN, "columns": "0"}, "not between 1 and 4000"),
        ("norms", {"run": RUN, "columns": "4001"}, "not between 1 and 4000"),
        ("norms", {"run": RUN, "first": "-1"}, "`first` is not an integer"),
        ("norms", {"run": RUN, "last": "1e3"}, "`last` is not an integer"),
        ("norms", {"run": RUN, "last": "²"}, "`last` is not an integer"),
    ],
)
def test_bad_question(served, route, query, words):
    assert words in served.refused(route, **query)


def test_only_our_files(served):
    """Nothing is joined to a path, so nothing leads out of the folder."""
    for name in asset_names():
        response = served.get(f"/data/plugin/keras_gradguard/{name}")
        assert response.status_code == 200
        assert "nosniff" == response.headers["X-Content-Type-Options"]
    for name in ("other.js", "../plugin.py", "%2e%2e/plugin.py", "static/x"):
        response = served.get(f"/data/plugin/keras_gradguard/{name}")
        assert response.status_code == 404
    assert "index.js" in asset_names()


def test_missing_files_are_told(trained, tmp_path, monkeypatch):
    """TensorBoard and its other pages work without our page."""
    monkeypatch.setattr(plugin, "FOLDER", tmp_path / "none")
    served = Served(trained[0])
    assert "index.js" in served.refused("index.js", 404)
    assert served.get("/data/plugins_listing").status_code == 200
    assert served.get("/data/plugin/scalars/tags").status_code == 200


def test_prefix(trained):
    served = Served(trained[0], "--path_prefix=/a/b")
    assert len(served.json("runs")["runs"]) == 2


def test_listed_as_a_tab(served):
    listing = json.loads(served.get("/data/plugins_listing").get_data())
    ours = listing["keras_gradguard"]
    assert ("Gradients", True) == (ours["tab_name"], ours["enabled"])
    assert "/index.js" == ours["loading_mechanism"]["module_path"][-9:]


def test_nothing_recorded(tmp_path):
    served = Served(tmp_path)
    assert [] == served.json("runs")["runs"]
    assert "there is: none" in served.refused("norms", run="x")


def test_loader_loads_no_tensorflow():
    code = (
        "import sys, keras_gradguard.view.loader as loader\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
        "import keras_gradguard.view.plugin\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
