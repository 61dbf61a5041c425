"""Disks that are full, and files that go away: training goes on, one word."""

import errno
import os
import pathlib
import shutil
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_file_loader import (
    EventFileLoader,
)

from keras_gradguard import GradHealthCallback
from keras_gradguard.errors import GuardFaultWarning
from keras_gradguard.report import event_file, files
from keras_gradguard.report.incident import read_incident
from tests.faults.trainings import Late
from tests.fitting import X, Y, classifier


@pytest.fixture(autouse=True)
def caught(monkeypatch):
    """Faults are caught here, as they are for a user."""
    monkeypatch.setenv("KERAS_GRADGUARD_STRICT", "0")


def train(log_dir, at=None, do=None, middle=None):
    """Fits eight steps; `do()` runs before the step `at`.

    Returns:
        The callback, the weights, and the texts of the warnings about disks.
    """
    keras.utils.set_random_seed(3)
    model = classifier("mse", middle=middle)
    callbacks = []
    if do is not None:
        callbacks.append(
            keras.callbacks.LambdaCallback(
                on_train_batch_begin=lambda batch, logs: (
                    do() if model.optimizer.iterations.numpy() == at else None
                )
            )
        )
    callback = None
    if log_dir is not None:
        callback = GradHealthCallback(log_dir, every=1)
        callbacks.append(callback)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.fit(
            X,
            Y,
            batch_size=4,
            epochs=2,
            shuffle=False,
            verbose=0,
            callbacks=callbacks,
        )
    assert not [w for w in said if w.category is GuardFaultWarning]
    words = ("log_dir", "event file")
    texts = [str(w.message) for w in said]
    told = [t for t in texts if any(word in t for word in words)]
    return callback, model.get_weights(), told


def steps(folder):
    """The steps whose norms can be read back from all files of a run."""
    found = set()
    for path in pathlib.Path(folder).rglob("events.*"):
        for event in EventFileLoader(str(path)).Load():
            if any("global_norm" in v.tag for v in event.summary.value):
                found.add(event.step)
    return sorted(found)


def tags(folder):
    """All tags that can be read back."""
    return {
        value.tag
        for path in pathlib.Path(folder).rglob("events.*")
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
    }


def same(one, other):
    """The weights of two trainings agree in all bits."""
    for old, new in zip(one, other, strict=True):
        np.testing.assert_array_equal(old, new)


LOSSES = {
    "folder": shutil.rmtree,
    "file": lambda run: [os.remove(f) for f in pathlib.Path(run).iterdir()],
    "moved": lambda run: os.rename(run, run + "_elsewhere"),
    "replaced": lambda run: [
        shutil.copy(f, f"{f}.new") and os.replace(f"{f}.new", f)
        for f in list(pathlib.Path(run).iterdir())
    ],
}


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES)
def test_deleted_while_it_is_written(lose, tmp_path):
    """It is said once, and what follows is written to a new file."""
    _, expected, _ = train(None)
    run = str(tmp_path / "gradients")
    _, weights, told = train(tmp_path, 3, lambda: lose(run))
    same(expected, weights)
    (text,) = told
    assert "deleted while the training wrote to it" in text
    assert [3, 4, 5, 6, 7] == steps(run)[-5:]


def test_what_was_found_is_written_again(tmp_path):
    """Cards and verdict of a run outlive its file."""

    class Cut(keras.layers.Layer):
        def call(self, x):
            return tf.cast(x > 0.0, x.dtype)

    run = str(tmp_path / "gradients")
    expected = train(tmp_path / "whole", middle=Cut())
    train(tmp_path, 3, lambda: shutil.rmtree(run), Cut())
    assert expected[0].report.diagnoses

    def kinds(folder):
        # Schema, marks and the like have names of their own in each training.
        return {tag.rpartition("/")[0] for tag in tags(folder)}

    assert kinds(tmp_path / "whole") == kinds(run)


def test_no_new_file_can_be_made(tmp_path):
    """Then nothing more is written, which is said once."""
    _, expected, _ = train(None)
    run = tmp_path / "logs" / "gradients"

    def lose():
        shutil.rmtree(run.parent)
        run.parent.write_text("a file of this name")

    _, weights, told = train(run.parent, 3, lose)
    same(expected, weights)
    (text,) = told
    assert "continues without TensorBoard records" in text


class Full:
    """A file of records on a disk that is full after some bytes."""

    def __init__(self, path, code, most=3_000):
        self._records = files.open_records(path)
        self._code, self._left = code, most

    def write(self, content):
        """Takes what fits."""
        self._left -= len(content)
        if self._left < 0:
            raise OSError(self._code, os.strerror(self._code))
        self._records.write(content)

    def flush(self):
        """Passes on."""
        self._records.flush()

    def close(self):
        """Passes on."""
        self._records.close()


CODES = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO]


@pytest.mark.parametrize("code", CODES, ids=map(os.strerror, CODES))
def test_full_after_some_records(code, tmp_path, monkeypatch):
    """One warning; what was flushed reads back."""
    _, expected, _ = train(None)
    whole = train(tmp_path / "whole")
    monkeypatch.setattr(event_file, "open_records", lambda p: Full(p, code))
    _, weights, told = train(tmp_path / "full")
    same(expected, weights)
    (text,) = told
    assert os.strerror(code) in text
    assert 0 < len(steps(tmp_path / "full")) < len(steps(tmp_path / "whole"))
    assert not whole[2]


def test_no_file_can_be_made(tmp_path, monkeypatch):
    """No inode is left: the first record is reported."""
    _, expected, _ = train(None)

    def refuse(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.tf.io.gfile, "makedirs", refuse)
    _, weights, told = train(tmp_path / "logs")
    same(expected, weights)
    assert 1 == len(told)


@pytest.mark.skipif(
    not os.path.exists("/dev/full"), reason="only Linux has /dev/full"
)
def test_a_device_that_is_full(tmp_path, monkeypatch):
    """The writer of TensorFlow itself meets a full disk."""
    _, expected, _ = train(None)
    native = tf.io.TFRecordWriter
    monkeypatch.setattr(
        event_file, "open_records", lambda p: native("/dev/full")
    )
    _, weights, told = train(tmp_path)
    same(expected, weights)
    (text,) = told
    assert "No space left on device" in text


class Short:
    """A file that takes half of what is written to it."""

    def __init__(self, path, mode):
        self._file = open(path, mode)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def write(self, content):
        """Writes half of it."""
        self._file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", ["arrays.npz", "incident.json"])
def test_incident_on_a_full_disk(name, tmp_path, monkeypatch):
    """There is none, rather than half of one; the finding is reported."""
    _, expected, _ = train(None, middle=Late(3))

    def open_file(path, mode="r"):
        if path.endswith(name):
            return Short(path, mode)
        return files.tf.io.gfile.GFile(path, mode)

    monkeypatch.setattr(files, "open_file", open_file)
    callback, weights, told = train(tmp_path, middle=Late(3))
    same(expected, weights)
    (text,) = told
    assert "cannot write the incident" in text
    assert "No space left on device" in text
    assert [] == list((tmp_path / "incidents").iterdir())
    assert ["nonfinite"] == [d.kind for d in callback.report.diagnoses]
    # What else is written goes on.
    assert 8 == len(steps(tmp_path))


def test_incident_is_whole(tmp_path):
    """Nothing but the folder of the incident is left."""
    train(tmp_path, middle=Late(3))
    (folder,) = (tmp_path / "incidents").iterdir()
    assert "step_3" == folder.name
    assert read_incident(str(folder)).weights


@pytest.mark.parametrize("do", [None, shutil.rmtree], ids=["full", "deleted"])
def test_a_filter_makes_no_exception_of_it(do, tmp_path, monkeypatch, capsys):
    """`-W error` is meant for findings."""
    run = tmp_path / "gradients"
    model = classifier("mse")
    lose = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: (
            do(run) if do and batch == 2 else None
        )
    )
    if do is None:
        full = lambda path: Full(path, errno.ENOSPC)  # noqa: E731
        monkeypatch.setattr(event_file, "open_records", full)
    callback = GradHealthCallback(tmp_path, every=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.fit(X, Y, batch_size=4, verbose=0, callbacks=[lose, callback])
    assert "GG900" not in capsys.readouterr().err
    assert callback.report.ok
