"""What TensorBoard's own pages get, and how much of the disk it takes."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_file_loader import (
    EventFileLoader,
)

from keras_gradguard import GradHealthCallback, watch
from keras_gradguard.report.scalars import LEVELS
from keras_gradguard.report.writer import SummaryWriter
from tests.report.records import record_of, rows_of, schema_of, write_norms

COUNTS = {
    "gradients/global_norm",
    "gradients/count_missing",
    "gradients/count_zero",
    "gradients/count_nonfinite",
}
X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")


def scalars(folder):
    """Returns the scalars of the last record of the only file, by tag."""
    (path,) = (folder / "gradients").iterdir()
    *_, event = (
        event
        for event in EventFileLoader(str(path)).Load()
        if any("global_norm" in value.tag for value in event.summary.value)
    )
    return {
        v.tag: v.tensor.float_val[0]
        for v in event.summary.value
        if v.tag.startswith("gradients/")
    }


def fitted(folder, level):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, name="one"),
            keras.layers.Dense(1, name="two"),
        ],
        name="net",
    )
    model.compile("sgd", "mse")
    callback = GradHealthCallback(log_dir=folder, every=1, scalars=level)
    model.fit(X, X[:, :1], batch_size=8, callbacks=[callback], verbose=0)
    return callback.report


@pytest.mark.parametrize("level", LEVELS)
def test_levels(tmp_path, level):
    report = fitted(tmp_path, level)
    norms = {row.path: row.norm for row in report.variables}
    expected = {}
    if level == "variables":
        expected = {f"gradients/{path}": norms[path] for path in norms}
    if level == "layers":
        expected = {
            f"gradients/net/{layer}": math.hypot(
                norms[f"net/{layer}/kernel"], norms[f"net/{layer}/bias"]
            )
            for layer in ("one", "two")
        }
    found = scalars(tmp_path)
    assert COUNTS | expected.keys() == found.keys()
    for tag, norm in expected.items():
        assert found[tag] == pytest.approx(norm, rel=1e-5)
    assert found["gradients/global_norm"] == pytest.approx(report.global_norm)


def test_watch_has_levels_too(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD()
    with watch(model, log_dir=tmp_path, scalars="global"):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(X)))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
    assert scalars(tmp_path).keys() == COUNTS


@pytest.mark.parametrize("bad", ["all", None, 3, ("variables",), ["global"]])
def test_bad_level(bad):
    with pytest.raises(ValueError, match="scalars=") as caught:
        GradHealthCallback(scalars=bad)
    for level in LEVELS:
        assert f'"{level}"' in str(caught.value)
    with pytest.raises(ValueError, match="scalars="):
        watch(keras.Sequential(), scalars=bad)


def test_layer_with_a_missing_gradient(tmp_path):
    """It has the norm of what is there; one without any has none."""
    writer = SummaryWriter(tmp_path, scalars="layers")
    norms = {"a/k": 3.0, "a/b": None, "b/k": None, "c/k": math.inf, "d": 2.0}
    write_norms(writer, 0, 1.0, norms)
    writer.close()
    found = scalars(tmp_path)
    assert (3.0, 2.0) == (found["gradients/a"], found["gradients/d"])
    assert math.isnan(found["gradients/b"])
    assert math.isnan(found["gradients/c"])
    assert found["gradients/count_missing"] == 2.0


def test_variable_that_was_not_measured(tmp_path):
    """It has no point, and neither have its layer and the counts."""
    rows = [*rows_of({"a/k": 1.0}, 3), *rows_of({"b/k": 2.0}, 2)]
    for level in LEVELS:
        writer = SummaryWriter(tmp_path / level, scalars=level)
        record = record_of(rows, 3, 1.0)
        writer.write_record(schema_of(("a/k", "b/k")), record)
        writer.close()
        own = set(scalars(tmp_path / level)) - COUNTS
        assert not {"gradients/b", "gradients/b/k"} & own


def test_names_that_clash(tmp_path):
    """A layer may be called as one of our counts is."""
    writer = SummaryWriter(tmp_path, scalars="layers")
    write_norms(writer, 0, 1.0, {"count_zero/k": 5.0})
    writer.close()
    found = scalars(tmp_path)
    assert found["gradients/count_zero"] == 0.0
    assert found["gradients/count_zero#2"] == 5.0


@pytest.mark.parametrize(("level", "most"), [("variables", 80), ("global", 12)])
def test_bytes_for_each_variable_and_record(tmp_path, level, most):
    """With 80 variables that are named as those of a transformer are."""
    names = {
        f"block_{number}/attention/query/{kind}": 0.1 * number
        for number in range(40)
        for kind in ("kernel", "bias")
    }
    ratios = dict.fromkeys(names, 1e-3)
    writer, sizes = SummaryWriter(tmp_path, scalars=level), []
    for step in range(10, 311, 10):
        write_norms(writer, step, 1.0, names, ratios=ratios)
        (path,) = (tmp_path / "gradients").iterdir()
        sizes.append(path.stat().st_size)
    writer.close()
    assert (sizes[-1] - sizes[0]) / 30 / len(names) < most
