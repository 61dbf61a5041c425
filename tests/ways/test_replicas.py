"""Several replicas: the norms are those of the gradients added up."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback, GradientBreakError
from keras_gradguard.model.optimizers import REDUCE
from tests.fitting import MODES, NAMES, X, Y, marked

BATCH = 16
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "loss_scale": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1)
    ),
    "own_scale": lambda: keras.optimizers.SGD(0.1, loss_scale_factor=64.0),
}


@functools.cache
def strategy_of_two():
    """One for all tests: each new one would count its all-reduces anew."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def model_of(optimizer, eager, loss="mse", **dense):
    """A two-layer classifier that two replicas train."""
    keras.utils.set_random_seed(3)
    strategy = strategy_of_two()
    with strategy.scope():
        layers = [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", name="hidden", **dense),
            keras.layers.Dense(3, name="head"),
        ]
        model = keras.Sequential(layers, name="net")
        model.compile(optimizer(), loss, run_eagerly=eager)
    assert 2 == strategy.num_replicas_in_sync
    return model


def fit(model, epochs=2, **arguments):
    """Fits one batch an epoch; returns the callback and the history."""
    callback = GradHealthCallback(**{"every": 1, **arguments})
    known = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
    history = model.fit(X, Y, epochs=epochs, callbacks=[callback], **known)
    return callback, history.history


def own_names(*instances):
    """The names of the attributes that instances have of their own."""
    return [set(vars(instance)) for instance in instances]


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_norms_and_weights(name, eager):
    """The oracle is a tape on the whole batch, and a fit without guard."""
    optimizer = OPTIMIZERS[name]
    bare = model_of(optimizer, eager)
    bare.fit(X, Y, batch_size=BATCH, epochs=3, shuffle=False, verbose=0)
    guarded = model_of(optimizer, eager)
    fit(guarded, epochs=2)
    left = own_names(guarded, guarded.optimizer)
    assert own_names(bare, bare.optimizer) == left
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(guarded(X) - Y))
    gradients = tape.gradient(loss, guarded.trainable_variables)
    callback, history = fit(guarded, epochs=1, log_norm=True)
    for one, other in zip(bare.variables, guarded.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    found = [row.norm for row in callback.report.variables]
    expected = [np.linalg.norm(gradient) for gradient in gradients]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    total = np.linalg.norm(expected)
    np.testing.assert_allclose(history["grad_norm"], [total], rtol=1e-5)
    assert all(row.update_ratio > 0 for row in callback.report.variables[::2])
    assert () == callback.report.diagnoses


def test_the_gradients_are_added_up_once():
    """The guard adds no second all-reduce to the step."""
    counts = []
    for callbacks in ([], [GradHealthCallback(every=1)]):
        model = model_of(OPTIMIZERS["sgd"], False)
        calls = []
        name = REDUCE
        add_up = getattr(model.optimizer, name)

        def counted(pairs, add_up=add_up, seen=calls):
            seen.append(pairs)
            return add_up(pairs)

        vars(model.optimizer)[name] = counted
        model.fit(X, Y, batch_size=BATCH, verbose=0, callbacks=callbacks)
        counts.append(len(calls))
    assert counts[0] == counts[1]


def hard(y_true, y_pred):
    """Counts wrong decisions."""
    decided = tf.cast(y_pred > 0.5, tf.float32)  # cut
    return tf.reduce_mean(tf.abs(y_true - decided), axis=-1)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_cut_is_found(eager):
    """The line is that of the threshold, and no weight has moved."""
    model = model_of(OPTIMIZERS["sgd"], eager, hard)
    before = [variable.numpy() for variable in model.variables]
    with pytest.raises(GradientBreakError) as raised:
        fit(model)
    (diagnosis,) = raised.value.report.diagnoses
    assert marked(hard) == (diagnosis.file, diagnosis.line)
    assert "GG102" == diagnosis.code
    assert 4 == len(diagnosis.variables)
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, variable.numpy())


def rooted(y_true, y_pred):
    """A root whose slope at zero is not finite."""
    gap = y_pred - tf.stop_gradient(y_pred)
    return tf.reduce_mean(tf.sqrt(tf.abs(gap)), axis=-1)  # cut


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_nonfinite_step_is_explained(eager):
    """It is run again on the share of the replica that measures."""
    model = model_of(OPTIMIZERS["sgd"], eager, rooted)
    with pytest.warns(UserWarning, match="GG226"):
        callback, _ = fit(model, epochs=1)
    (diagnosis,) = callback.report.diagnoses
    assert ("GG226", *marked(rooted)) == (
        diagnosis.code,
        diagnosis.file,
        diagnosis.line,
    )


def test_dead_layer_is_told_of():
    """Zeros are traced on the kept share of the batch."""
    model = model_of(OPTIMIZERS["sgd"], False)
    model.layers[1].set_weights([np.zeros((8, 3)), np.zeros(3)])
    model.layers[1].trainable = False
    with pytest.warns(UserWarning, match="GG208"):
        callback, _ = fit(model, epochs=6)
    assert ["GG208"] == [d.code for d in callback.report.diagnoses]


def test_holding_back_is_said_to_be_impossible():
    """One warning before the first step, and training goes on."""
    model = model_of(OPTIMIZERS["sgd"], False)
    with pytest.warns(UserWarning, match="step of 2 replicas"):
        callback, _ = fit(model, on_nonfinite="skip")
    assert "ok" == callback.report.variables[0].status
