"""A loss that is not finite, with a finite gradient, under `watch`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import watch
from tests.fitting import marked
from tests.looping import MODES, X, Y, compiled, loop, network, trainer

COUNT = tf.Variable(0.0, trainable=False)


def log_of_negative(y, y_pred):
    """Its value is NaN and its derivative is finite."""
    return tf.reduce_mean(tf.math.log(-1.0 - tf.square(y_pred)))  # cut


def later(y, y_pred):
    """It is NaN from the third call, by a term that has no gradient."""
    COUNT.assign_add(1.0)
    term = tf.math.log(2.5 - COUNT)  # cut
    return tf.reduce_mean(tf.square(y - y_pred)) + term


@pytest.fixture(autouse=True)
def from_zero():
    """Each loop counts its own calls."""
    COUNT.assign(0.0)


def test_gradient_is_finite():
    """What the other tests are about."""
    model = network()
    with tf.GradientTape() as tape:
        value = log_of_negative(Y, model(X))
    assert np.isnan(value)
    for gradient in tape.gradient(value, model.trainable_variables):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("mode", MODES)
def test_loss_of_the_first_step(mode):
    """All that it trains is hit; an eager step shows the line."""
    model = network()
    step, _ = trainer(model, log_of_negative, mode)
    health, error = loop(model, step)
    assert error is None
    (found,) = health.report.diagnoses
    assert ("nonfinite", 0, "error") == (found.kind, found.step, found.severity)
    assert {v.path for v in model.trainable_variables} == {*found.variables}
    if mode == "eager":
        assert "GG223" == found.code
        assert marked(log_of_negative) == (found.file, found.line)
    else:
        assert ("GG230", "suspected") == (found.code, found.certainty)
        notes = found.evidence["notes"]
        assert "the loss is not finite, its gradient is" in notes


@pytest.mark.parametrize("mode", ["graph", "xla"])
@pytest.mark.parametrize("action", ["skip", "stop", "raise"])
def test_loss_of_a_later_step(mode, action):
    """A compiled step is looked at every time."""
    model = network()
    step, optimizer = trainer(model, later, mode, keras.optimizers.SGD(0.1))
    health, error = loop(model, step, turns=5, on_nonfinite=action)
    (found,) = health.report.diagnoses
    assert ("nonfinite", 2) == (found.kind, found.step)
    assert (action == "raise") == (error is not None)
    assert (action == "stop") == health.stopped
    # Those of the bad steps are left out, and nothing else changes.
    other = network()
    plain, _ = trainer(other, later, mode, keras.optimizers.SGD(0.1))
    COUNT.assign(0.0)
    for _ in range(2):
        plain(X, Y)
    for mine, known in zip(
        model.get_weights(), other.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(known, mine)


def inner(model, optimizer):
    """Asks a tape about a value that is NaN, for the inputs."""

    def step(x, y):
        with tf.GradientTape() as outer:
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = tf.math.log(-1.0 - tf.square(model(x)))
            slope = tape.gradient(value, x)
            loss = tf.reduce_mean(tf.square(slope))
        gradients = outer.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    return step


def seeded(model, optimizer):
    """Gives the rows that do not count no weight in the gradient."""

    def step(x, y):
        with tf.GradientTape() as tape:
            rows = tf.reduce_mean(tf.square(model(x) - y), axis=1)
            rows += tf.math.log(tf.constant([-1.0] + 15 * [1.0]))
        weights = tf.constant([0.0] + 15 * [1.0])
        variables = model.trainable_variables
        gradients = tape.gradient(rows, variables, output_gradients=weights)
        optimizer.apply(gradients, variables)

    return step


def scaled(model, optimizer):
    """Multiplies a loss in float16 by a loss scale."""
    optimizer = keras.optimizers.LossScaleOptimizer(optimizer)

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x) - y))
            value = optimizer.scale_loss(tf.cast(4.0 * loss, tf.float16))
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    return step


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("make", [inner, seeded, scaled])
def test_no_loss_of_the_update(make, mode):
    """A value that is not finite, and no fault of the training."""
    model = network(activation="tanh")
    step = compiled(make(model, keras.optimizers.SGD(0.01)), mode)
    health, error = loop(model, step, turns=4)
    assert error is None
    assert () == health.report.diagnoses


def test_loss_of_another_graph():
    """The gradient is that of a function, the update is made outside."""
    model, optimizer = network(), keras.optimizers.SGD(0.1)

    @tf.function
    def gradients(x, y):
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(tf.square(model(x) - y))
        return tape.gradient(value, model.trainable_variables)

    with watch(model) as health:
        for _ in range(3):
            optimizer.apply(gradients(X, Y), model.trainable_variables)
    assert () == health.report.diagnoses
    assert 3 == int(optimizer.iterations)


def test_the_way_to_the_line():
    """What the finding of a compiled loop says to do shows the line."""
    model, optimizer = network(), keras.optimizers.SGD(0.1)

    def late(y, y_pred):
        return later(y, y_pred) + 0.0 * tf.reduce_sum(model.weights[0])

    step, _ = trainer(model, late, "graph", optimizer)
    health, _ = loop(model, step, turns=5, on_nonfinite="stop")
    (found,) = health.report.diagnoses
    (note,) = [n for n in found.evidence["notes"] if "`watch` looks" in n]
    assert "`tf.config.run_functions_eagerly(True)`" in note
    assert found.line is None
    COUNT.assign(2.0)
    tf.config.run_functions_eagerly(True)
    try:
        health, _ = loop(model, step, turns=1)
    finally:
        tf.config.run_functions_eagerly(False)
    (found,) = health.report.diagnoses
    assert ("GG223", marked(later)[1]) == (found.code, found.line)
