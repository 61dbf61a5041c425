"""Loss scales, float16, clipping and accumulation: what the report says."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback
from tests.fitting import MODES, NAMES

_generator = np.random.default_rng(5)
X = _generator.normal(size=(16, 4)).astype("float32")
Y = _generator.normal(size=(16, 3)).astype("float32")
OPTIMIZERS = keras.optimizers


def model_of(optimizer, policy="float32", eager=False, **compiled):
    """A two-layer regression."""
    keras.utils.set_random_seed(3)
    layers = [
        keras.Input((4,)),
        keras.layers.Dense(8, activation="tanh", name="hidden", dtype=policy),
        keras.layers.Dense(3, name="head", dtype=policy),
    ]
    model = keras.Sequential(layers, name="net")
    known = {"loss": "mse", "run_eagerly": eager, **compiled}
    model.compile(optimizer, **known)
    return model


def fit(model, epochs=1, **arguments):
    """Fits one batch an epoch under a callback, and returns that."""
    callback = GradHealthCallback(**{"every": 1, **arguments})
    known = {"batch_size": 16, "shuffle": False, "verbose": 0}
    model.fit(X, Y, epochs=epochs, callbacks=[callback], **known)
    return callback


def tape_norms(model):
    """The norms of the gradients by a tape of their own, unscaled.

    The loss is scaled as the optimizer does, and the tape runs in the mode of
    the model, as both decide what half precision rounds.
    """
    scale = float(model.optimizer.scale_loss(1.0))

    def run():
        with tf.GradientTape() as tape:
            y_pred = model(X, training=True)
            loss = scale * model.compute_loss(x=X, y=Y, y_pred=y_pred)
        return tape.gradient(loss, model.trainable_variables)

    gradients = run() if model.run_eagerly else tf.function(run)()
    gradients = [gradient.numpy().astype("float64") for gradient in gradients]
    return [np.linalg.norm(gradient) / scale for gradient in gradients]


def scaled_if_half(policy):
    """The optimizer that Keras makes of a model of that policy."""
    optimizer = OPTIMIZERS.SGD(0.1)
    if policy == "mixed_float16":
        optimizer = OPTIMIZERS.LossScaleOptimizer(optimizer)
    return optimizer


POLICIES = ["mixed_float16", "mixed_bfloat16"]


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("policy", POLICIES)
def test_norms_under_mixed_precision(policy, eager):
    """Unscaled, equal to a tape's, and the weights are those without us."""
    bare = model_of(scaled_if_half(policy), policy, eager)
    bare.fit(X, Y, batch_size=16, shuffle=False, epochs=2, verbose=0)
    model = model_of(scaled_if_half(policy), policy, eager)
    expected = tape_norms(model)
    callback = fit(model)
    found = [row.norm for row in callback.report.variables]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    fit(model)
    for one, other in zip(bare.variables, model.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    is_scaled = policy == "mixed_float16"
    (optimizer,) = callback.report.optimizers
    assert (2.0**15 if is_scaled else None) == optimizer.loss_scale
    assert (0 if is_scaled else None) == optimizer.num_skipped


def test_skipped_steps_are_counted():
    """A scale of 2**40 overflows; each halving is one skipped step."""
    optimizer = OPTIMIZERS.LossScaleOptimizer(
        OPTIMIZERS.SGD(0.1), initial_scale=2.0**40
    )
    model = model_of(optimizer, "mixed_float16")
    callback = fit(model, epochs=40)
    (health,) = callback.report.optimizers
    fallen = 40 - np.log2(float(optimizer.dynamic_scale.numpy()))
    assert fallen == health.num_skipped > 20
    assert float(optimizer.dynamic_scale.numpy()) == health.loss_scale
    assert 40 - fallen == int(optimizer.iterations.numpy())
    # Finding the level is no fault.
    assert () == callback.report.diagnoses


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("name", ["clipnorm", "global_clipnorm", "clipvalue"])
def test_clipping(name, eager):
    """Norms are before it, and how often it bites is counted by NumPy too."""
    limit = {"clipnorm": 0.5, "global_clipnorm": 0.7, "clipvalue": 0.2}[name]
    optimizer = OPTIMIZERS.SGD(0.3, **{name: limit})
    model = model_of(optimizer, eager=eager)
    norms, bites = [], 0
    watcher = GradHealthCallback(every=1)

    class Oracle(keras.callbacks.Callback):
        """Takes the gradients before each step with a tape of its own."""

        def on_train_batch_begin(self, batch, logs=None):
            nonlocal norms, bites
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(self.model(X) - Y))
            found = tape.gradient(loss, self.model.trainable_variables)
            found = [g.numpy() for g in found]
            norms = [np.linalg.norm(g) for g in found]
            largest = {
                "clipnorm": max(norms),
                "global_clipnorm": np.linalg.norm(norms),
                "clipvalue": max(np.abs(g).max() for g in found),
            }
            bites += largest[name] > limit

    model.fit(X, Y, 16, epochs=8, verbose=0, callbacks=[Oracle(), watcher])
    rows = watcher.report.variables
    np.testing.assert_allclose([r.norm for r in rows], norms, rtol=1e-5)
    (health,) = watcher.report.optimizers
    assert 0 < bites < 8, "the case must be a mixed one"
    assert bites / 8 == health.clipped_share
    assert f"{name}={limit}" == health.clipping
    assert f"{name}={limit} took effect in {bites / 8:.0%}" in str(
        watcher.report
    )


def test_accumulation_is_said():
    """The norms are those of the micro-batch; the record says so."""
    model = model_of(OPTIMIZERS.SGD(0.1, gradient_accumulation_steps=3))
    expected = tape_norms(model)
    callback = fit(model, epochs=2)
    (health,) = callback.report.optimizers
    assert ("micro-batch", 3) == (health.gradient, health.accumulation_steps)
    # No update has been made, so the second batch gives the first one's.
    found = [row.norm for row in callback.report.variables]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert "one update per 3 of them" in str(callback.report)


def small(y_true, y_pred):
    """A loss whose gradient lies at the end of float16."""
    return 1e-6 * tf.reduce_mean(tf.square(y_true - y_pred), axis=-1)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_lost_share_is_measured(eager):
    """The oracle is a loss scale by hand: what it brings back was lost."""
    model = model_of(
        "sgd", "mixed_float16", eager, loss=small, auto_scale_loss=False
    )
    with pytest.warns(UserWarning, match="GG261"):
        callback = fit(model, epochs=6)
    (diagnosis,) = callback.report.diagnoses
    assert "underflow" == diagnosis.kind
    found = []
    for scale in (1.0, 2.0**12):
        with tf.GradientTape() as tape:
            loss = scale * model.compute_loss(x=X, y=Y, y_pred=model(X))
        gradients = tape.gradient(loss, model.trainable_variables)
        found.append([gradient.numpy() != 0 for gradient in gradients])
    shares = [
        (there & ~here).sum() / max(there.sum(), 1)
        for here, there in zip(*found, strict=True)
    ]
    paths = [v.path for v in model.trainable_variables]
    hit = [p for p, share in zip(paths, shares, strict=True) if share > 0.05]
    assert hit == list(diagnosis.variables)
    worst = diagnosis.evidence["worst"]
    share = shares[paths.index(worst)]
    assert share == pytest.approx(diagnosis.evidence["lost_share"], abs=0.02)


def test_a_bfloat16_model_loses_nothing():
    """The same loss in bfloat16: no word."""
    model = model_of("sgd", "mixed_bfloat16", loss=small)
    # Its gradients are below the level of vanishing ones, as they should be.
    callback = fit(model, epochs=6, thresholds={"vanishing_mean": None})
    assert "underflow" not in [d.kind for d in callback.report.diagnoses]


def test_scales_of_float8_are_no_weights():
    """What is written over a scale is no gradient, and a scale may stay."""
    model = model_of("sgd")
    model.quantize("float8")
    model.compile(OPTIMIZERS.SGD(1e-3, global_clipnorm=1e3), "mse")
    callback = fit(model, epochs=12, log_norm=True)
    report = callback.report
    assert () == report.diagnoses
    trained = model.trainable_variables
    own = [not variable.overwrite_with_gradient for variable in trained]
    norms = [row.norm for row in report.variables]
    expected = np.linalg.norm(np.array(norms)[own])
    assert 4 == sum(own) < len(norms)
    found = model.history.history["grad_norm"][-1]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert 0.0 == report.optimizers[0].clipped_share
