"""`watch` where several replicas train in one process."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import watch
from tests.entry.test_watch import mse, norm_tags
from tests.looping import X, Y
from tests.ways.test_replicas import strategy_of_two

TURNS = 3


def scaled():
    """A loss scale around plain descent."""
    inner = keras.optimizers.SGD(0.1)
    return keras.optimizers.LossScaleOptimizer(inner, 64.0)


OPTIMIZERS = {"sgd": lambda: keras.optimizers.SGD(0.1), "loss_scale": scaled}


def made(make, mode):
    """Returns a model, its optimizer and a step that both replicas take."""
    strategy = strategy_of_two()
    keras.utils.set_random_seed(1)
    with strategy.scope():
        hidden = keras.layers.Dense(8, name="hidden")
        head = keras.layers.Dense(3, name="head")
        model = keras.Sequential([keras.Input((4,)), hidden, head])
        optimizer = make()
        optimizer.build(model.trainable_variables)

    def one(x, y):
        with tf.GradientTape() as tape:
            value = mse(y, model(x, training=True)) / 2.0
            value = optimizer.scale_loss(value)
        names = model.trainable_variables
        optimizer.apply(tape.gradient(value, names), names)

    def step():
        return strategy.run(one, args=(X, Y))

    return model, optimizer, step if mode == "eager" else tf.function(step)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("is_given", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_update_is_measured_once(name, is_given, mode, tmp_path):
    """By the outermost optimizer, whether it is given or found."""
    model, _, step = made(OPTIMIZERS[name], mode)
    for _ in range(TURNS):
        step()
    expected = model.get_weights()
    model, optimizer, step = made(OPTIMIZERS[name], mode)
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    before = [dict(vars(one)).keys() for one in (optimizer, inner)]
    given = optimizer if is_given else None
    norms = []
    with watch(model, tmp_path, every=1, optimizer=given) as health:
        for _ in range(TURNS):
            with tf.GradientTape() as tape:
                loss = mse(Y, model(X, training=True))
            norms = [
                np.linalg.norm(gradient)
                for gradient in tape.gradient(loss, model.trainable_variables)
            ]
            step()
            health.step()
    for one, other in zip(expected, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    found = [row.norm for row in health.report.variables]
    np.testing.assert_allclose(found, norms, rtol=1e-5)
    (row,) = health.report.optimizers
    assert optimizer.name == row.name
    assert [0, 1, 2] == list(norm_tags(tmp_path))
    assert health.report.ok
    assert before == [vars(one).keys() for one in (optimizer, inner)]
