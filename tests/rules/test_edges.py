"""The good examples in half precision and where numbers are extreme."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard.rules import RULES
from tests.rules.test_bad_and_good import load

GOOD = [rule for rule in RULES if rule.good]
LOSSES = [rule for rule in GOOD if "\ndef loss(" in rule.good]
MODELS = [rule for rule in GOOD if rule not in LOSSES]
ONE_CLASS = np.eye(3, dtype="float32")[np.zeros(16, int)]
LABELS = np.eye(3, dtype="float32")[np.arange(16) % 3]
ORDINARY = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
# A variable in float32, and an op without a kernel for float16.
FLOAT32_ONLY = ("GG118", "GG230")
# What still has a square that float16 can add up.
HUGE = {"float32": 200.0, "float16": 10.0}
EDGES = {
    "ordinary": (LABELS, ORDINARY),
    "zeros": (LABELS, np.zeros_like(ORDINARY)),
    "huge": (LABELS, np.sign(ORDINARY)),
    "one_huge": (LABELS, np.roll(ONE_CLASS, 1, axis=1)),
    "no_labels": (np.zeros_like(LABELS), ORDINARY),
    "one_class": (ONE_CLASS, ORDINARY),
    "exact": (LABELS, LABELS),
}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("rule", LOSSES, ids=lambda rule: rule.code)
def test_good_loss_has_a_finite_gradient_everywhere(rule, dtype, tmp_path):
    """Nothing overflows, and nothing is NaN, at any of the edges."""
    if dtype == "float16" and rule.code in FLOAT32_ONLY:
        pytest.skip("it has no float16")
    module = load(rule.good, tmp_path, "good_loss")
    try:
        found = {}
        for name, (y_true, y_pred) in EDGES.items():
            if "huge" in name:
                y_pred = HUGE[dtype] * y_pred
            y_true = getattr(module, "targets", lambda y: y)(y_true)
            y_true = tf.constant(y_true, dtype)
            y_pred = tf.constant(y_pred, dtype)
            with tf.GradientTape() as tape:
                tape.watch(y_pred)
                value = module.loss(y_true, y_pred)
            gradient = tape.gradient(value, y_pred)
            arrays = np.array(value), np.array(tf.convert_to_tensor(gradient))
            if not all(np.isfinite(array).all() for array in arrays):
                found[name] = arrays
        assert found == {}
    finally:
        sys.modules.pop("good_loss")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("rule", MODELS, ids=lambda rule: rule.code)
def test_good_model_trains_in_half_precision(rule, tmp_path):
    """Weights and loss stay finite under `mixed_float16`."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    keras.utils.set_random_seed(1)
    module = load(rule.good, tmp_path, "good_model")
    try:
        model = module.model()
        for x in (ORDINARY, np.zeros_like(ORDINARY)):
            x = np.concatenate([x, x[:, :1]], axis=1)
            x = getattr(module, "inputs", lambda x: x)(x)
            y = getattr(module, "targets", lambda y: y)(LABELS)
            history = model.fit(x, y, batch_size=16, epochs=2, verbose=0)
            assert np.isfinite(history.history["loss"]).all()
        weights = [np.array(weight) for weight in model.weights]
        assert all(np.isfinite(weight).all() for weight in weights)
        assert any(np.any(weight) for weight in weights)
    finally:
        sys.modules.pop("good_model")
        keras.config.set_dtype_policy(before)
