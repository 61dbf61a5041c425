"""A bad step is kept on disk, and runs again with the same diagnosis."""

import importlib.util
import json
import pathlib
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback
from keras_gradguard.backend.tensorflow.internals.batches import (
    packed,
    unpacked,
)
from keras_gradguard.replay import read_incident, replay_incident
from keras_gradguard.report import incident
from tests.fitting import X, Y

MODEL = """\
import keras
import tensorflow as tf


def loss(y_true, y_pred):
    gap = y_true * (y_true - y_pred)
    return tf.reduce_mean(tf.where(gap > 0, tf.math.log(gap), gap))  # here


def model(jit_compile=False, run_eagerly=False):
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, name="hidden"),
            keras.layers.BatchNormalization(name="scale"),
            keras.layers.Dropout(0.5, seed=3),
            keras.layers.Dense(3, name="head"),
        ]
    )
    network.compile(
        "adam", loss=loss, jit_compile=jit_compile, run_eagerly=run_eagerly
    )
    return network
"""
LINE = 1 + [n for n, t in enumerate(MODEL.splitlines()) if "# here" in t][0]


def load(folder):
    """Imports the model's file."""
    path = folder / "incident_model.py"
    path.write_text(MODEL)
    spec = importlib.util.spec_from_file_location("incident_model", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["incident_model"] = module
    spec.loader.exec_module(module)
    return module


def run(folder, epochs=1, **compiled):
    """Trains under the callback; returns it and the incidents' folders."""
    keras.utils.set_random_seed(2)
    keras.backend.clear_session()
    callback = GradHealthCallback(log_dir=folder / "logs", every=1)
    model = load(folder).model(**compiled)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.fit(
            X, Y, batch_size=8, epochs=epochs, verbose=0, callbacks=[callback]
        )
    return callback, sorted((folder / "logs" / "incidents").iterdir())


@pytest.mark.parametrize(
    "mode", [{}, {"jit_compile": True}, {"run_eagerly": True}], ids=str
)
def test_replay_gives_the_same_diagnosis(mode, tmp_path):
    """Every field of it, in the three modes."""
    callback, (folder,) = run(tmp_path, **mode)
    (live,) = callback.report.diagnoses
    assert ("nonfinite", LINE) == (live.kind, live.line)
    keras.utils.set_random_seed(99)
    target = f"{tmp_path / 'incident_model.py'}:model"
    (again,) = replay_incident(str(folder), target).diagnoses
    assert live.to_dict() == again.to_dict()
    assert any("replay" in note for note in live.evidence["notes"])


def test_replay_on_the_command_line(tmp_path):
    """The command of the note prints what the live run has warned of."""
    callback, (folder,) = run(tmp_path)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "keras_gradguard", "replay", str(folder)),
            *("--model", f"{tmp_path / 'incident_model.py'}:model"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    assert str(callback.report.diagnoses[0]).strip() == done.stdout.strip()


def test_the_folder_says_what_it_is(tmp_path):
    """Weights before the step, the batch, versions and the report."""
    _, (folder,) = run(tmp_path)
    record = json.loads((folder / "incident.json").read_text())
    assert tf.__version__ == record["versions"]["tensorflow"]
    assert ["GG227"] == [d["code"] for d in record["diagnoses"]]
    read = read_incident(str(folder))
    for weight in read.weights:
        assert np.isfinite(np.asarray(weight, "float64")).all()
    assert (8, 4) == tuple(read.batch[0].shape)


def test_at_most_three_incidents(tmp_path):
    """A bad batch in every step that is skipped fills no disk."""
    load(tmp_path)
    model = sys.modules["incident_model"].model()
    callback = GradHealthCallback(
        log_dir=tmp_path, every=1, on_nonfinite="skip"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=[callback])
    assert 3 == len(list((tmp_path / "incidents").iterdir()))


def test_too_large_is_left_out_and_said(tmp_path, monkeypatch):
    """The weights go first; the note says so, and replay too."""
    monkeypatch.setattr(incident, "MOST_BYTES", 600)
    callback, (folder,) = run(tmp_path)
    notes = " ".join(callback.report.diagnoses[0].evidence["notes"])
    assert "the incident does not contain the weights" in notes
    with pytest.raises(ValueError, match="not contain the weights"):
        replay_incident(str(folder), "a.py:b")


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("model.py", "FILE.py:FUNCTION"),
        ("nowhere.py:model", "there is no file"),
        ("{}:no_such", "has no function"),
        ("{}:loss", "missing|return a compiled"),
        ("{}:other", "the model does not match the incident"),
    ],
)
def test_wrong_model(target, text, tmp_path):
    """The error says what was given and what is expected."""
    _, (folder,) = run(tmp_path)
    file = tmp_path / "incident_model.py"
    file.write_text(
        MODEL
        + """

def other():
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    network.compile("sgd", "mse")
    return network
"""
    )
    with pytest.raises((ValueError, TypeError), match=text):
        replay_incident(str(folder), target.format(file))


def test_no_incident(tmp_path):
    """An empty folder, a broken record and a newer one are told apart."""
    with pytest.raises(ValueError, match="is not an incident folder"):
        read_incident(str(tmp_path))
    _, (folder,) = run(tmp_path)
    record = json.loads((folder / "incident.json").read_text())
    (folder / "incident.json").write_text(json.dumps({**record, "schema": 2}))
    with pytest.raises(ValueError, match="schema 2"):
        read_incident(str(folder))
    (folder / "incident.json").write_text("{}")
    with pytest.raises(ValueError, match="is damaged"):
        read_incident(str(folder))


def test_nothing_is_unpickled(tmp_path):
    """An array that needs pickle is refused."""
    _, (folder,) = run(tmp_path)
    with np.load(folder / "arrays.npz") as kept:
        names = kept.files
    forged = dict.fromkeys(names, np.array([{}], object))
    np.savez(folder / "arrays.npz", **forged)
    with pytest.raises(ValueError, match="holds object"):
        read_incident(str(folder))


def test_packed_batches():
    """Nests, texts, ragged, sparse and short floats come back as they were."""
    batch = (
        {"a": tf.constant([1.5, 2.5]), "b": [tf.constant([[1, 2]])]},
        None,
        tf.constant([b"x", b"", b"y\x00"]),
        tf.ragged.constant([[1.0], [2.0, 3.0]]),
        tf.sparse.from_dense([[0, 3], [4, 0]]),
        tf.cast(tf.constant([0.1, 7.0]), tf.bfloat16),
        tf.cast(tf.constant([0.1, 7.0]), tf.float16),
    )
    arrays = {}
    tree = json.loads(json.dumps(packed(batch, arrays)))
    again = unpacked(tree, arrays)
    flat, other = (
        tf.nest.flatten(nest, expand_composites=True) for nest in (batch, again)
    )
    assert len(flat) == len(other)
    for one, two in zip(flat, other, strict=True):
        if one is None:
            assert two is None
            continue
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one.numpy(), two.numpy())


def test_unwritable_folder(tmp_path):
    """Training goes on, and the diagnosis is not lost."""
    blocked = pathlib.Path(tmp_path) / "file"
    blocked.write_text("not a folder")
    model = load(tmp_path).model()
    callback = GradHealthCallback(log_dir=blocked, every=1)
    with pytest.warns(UserWarning, match="cannot write the incident"):
        model.fit(X, Y, batch_size=8, verbose=0, callbacks=[callback])
    assert "nonfinite" == callback.report.diagnoses[0].kind
