"""Histograms in TensorBoard: of each gradient, for those who ask."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_file_loader import (
    EventFileLoader,
)
from tensorboard.util import tensor_util

from keras_gradguard import GradHealthCallback, watch
from tests.view.served import Served

X = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
Y = X[:, :2]
MODES = {"eager": {"run_eagerly": True}, "graph": {}}
MODES["xla"] = {"jit_compile": True}


def net(**arguments):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)]
    model = keras.Sequential(layers, name="net")
    model.compile("sgd", "mse", **arguments)
    return model


def histograms(folder):
    """Returns `{tag: [(step, bins)]}` of all event files below a folder."""
    found = {}
    for path in folder.rglob("events*"):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                name = value.metadata.plugin_data.plugin_name
                if name == "histograms":
                    bins = tensor_util.make_ndarray(value.tensor)
                    known = found.setdefault(value.tag, [])
                    known.append((event.step, bins))
    return found


@pytest.mark.parametrize("mode", MODES)
def test_elements_of_each_gradient(tmp_path, mode):
    """The same ends and the same bins as of the gradient of a tape."""
    model = net()
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(X) - Y))
    gradients = tape.gradient(loss, model.trainable_variables)
    model = net(**MODES[mode])
    callback = GradHealthCallback(tmp_path, every=2, scalars="histograms")
    model.fit(X, Y, epochs=3, verbose=0, callbacks=[callback])
    found = histograms(tmp_path)
    rows = callback.report.variables
    assert found.keys() == {f"gradient_histograms/{r.path}" for r in rows}
    for row, gradient in zip(rows, gradients, strict=True):
        known = found[f"gradient_histograms/{row.path}"]
        assert [0, 2] == [step for step, _ in known]
        bins, values = known[0][1], gradient.numpy().ravel()
        assert bins[:, 2].sum() == values.size
        ends = (bins[0, 0], bins[-1, 1])
        np.testing.assert_allclose(ends, (values.min(), values.max()), 1e-4)
        expected, _ = np.histogram(np.clip(values, *ends), 30, ends)
        assert np.abs(np.cumsum(bins[:, 2] - expected)).max() <= 1


def test_same_weights(tmp_path):
    weights = []
    for scalars in (None, "histograms"):
        model = net()
        callbacks = [GradHealthCallback(tmp_path, 1, scalars="histograms")]
        kept = callbacks if scalars else []
        model.fit(X, Y, epochs=4, verbose=0, callbacks=kept)
        weights.append(model.get_weights())
    for bare, guarded in zip(*weights, strict=True):
        np.testing.assert_array_equal(bare, guarded)


def test_page_of_tensorboard_has_them(tmp_path):
    """Beside the scalars: the same tag would make it lose both."""
    callback = GradHealthCallback(tmp_path, every=1, scalars="histograms")
    net().fit(X, Y, epochs=3, verbose=0, callbacks=[callback])
    served = Served(tmp_path)
    tag = f"gradient_histograms/{callback.report.variables[0].path}"
    known = served.get(
        "/data/plugin/histograms/histograms", run="gradients", tag=tag
    ).get_json()
    assert [0, 1, 2] == [step for _, step, _ in known]
    scalar = f"gradients/{callback.report.variables[0].path}"
    known = served.get(
        "/data/plugin/scalars/scalars", run="gradients", tag=scalar
    ).get_json()
    assert len(known) == 3


def test_none_unless_asked_for(tmp_path):
    net().fit(X, Y, verbose=0, callbacks=[GradHealthCallback(tmp_path)])
    assert {} == histograms(tmp_path)


def test_watch_has_none():
    with pytest.raises(ValueError, match="scalars='histograms'"):
        watch(net(), scalars="histograms")
