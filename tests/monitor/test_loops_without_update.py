"""Loops that ask for gradients and make no update of the model."""

import keras
import pytest
import tensorflow as tf

from keras_gradguard import GradientBreakError, GradientBreakWarning, watch
from tests.fitting import MODES, NAMES, X, Y, marked


def network(name):
    """Two layers."""
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh"),
            keras.layers.Dense(3),
        ],
        name=name,
    )


def forgotten(model, other, optimizer):
    """Never calls the optimizer."""
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(X) - Y))
    variables = model.trainable_variables
    return tape.gradient(loss, variables)  # cut


def given_away(model, other, optimizer):
    """Updates another model."""
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(X) - Y))
    gradients = tape.gradient(loss, model.trainable_variables)  # cut
    optimizer.apply(gradients, other.trainable_variables)


def filtered(model, other, optimizer):
    """Leaves out what has no gradient, which is all."""
    with tf.GradientTape() as tape:
        best = tf.argmax(model(X), axis=-1)  # cut
        loss = tf.reduce_mean(tf.gather(Y, best, batch_dims=1))
    variables = model.trainable_variables
    gradients = tape.gradient(loss, variables)
    pairs = zip(gradients, variables, strict=True)
    pairs = [(g, v) for g, v in pairs if g is not None]
    if pairs:
        optimizer.apply_gradients(pairs)


def by_hand(model, other, optimizer):
    """Moves its weights without an optimizer."""
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(X) - Y))
    variables = model.trainable_variables
    gradients = tape.gradient(loss, variables)
    for gradient, variable in zip(gradients, variables, strict=True):
        variable.value.assign_sub(0.01 * gradient)


def run(step, eager, **arguments):
    """Runs four steps in a `watch`; returns its report."""
    model, other = network("model"), network("other")
    optimizer = keras.optimizers.SGD(0.01)
    optimizer.build(other.trainable_variables)
    call = step if eager else tf.function(step)
    with watch(model, optimizer=optimizer, **arguments) as health:
        for _ in range(4):
            call(model, other, optimizer)
    return health.report


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize(
    ("step", "code"),
    [(forgotten, "GG313"), (given_away, "GG313"), (filtered, "GG104")],
)
def test_why_no_update_was_made(step, code, eager):
    """The line that asks, or the one that cuts, and no guess beside it."""
    with pytest.warns(UserWarning) as told:
        report = run(step, eager)
    texts = [str(w.message) for w in told]
    assert 1 == sum(w.category is GradientBreakWarning for w in told)
    assert not any("saw no update" in text for text in texts)
    (found,) = report.diagnoses
    assert (code, marked(step)[1]) == (found.code, found.line)
    assert 4 == len(found.variables)
    assert "broken" == report.verdict


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_on_break_acts_at_the_end(eager):
    """It raises as the block ends, as for any other break."""
    with pytest.raises(GradientBreakError, match="GG313"):
        run(forgotten, eager, on_break="raise")


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_loop_that_moves_its_weights_itself(eager):
    """Nothing is claimed of it, but that no update was seen."""
    with pytest.warns(UserWarning, match="saw no update"):
        report = run(by_hand, eager)
    assert () == report.diagnoses
    assert "not checked" == report.verdict


def test_loop_that_moves_its_weights_outside_of_its_function():
    """The compiled part asks for the gradients only."""
    model = network("model")
    asked = tf.function(lambda: forgotten(model, None, None))
    with pytest.warns(UserWarning, match="saw no update"):
        with watch(model, every=1) as health:
            for _ in range(3):
                for gradient, variable in zip(
                    asked(), model.trainable_variables, strict=True
                ):
                    variable.assign(variable - 0.01 * gradient)
    assert () == health.report.diagnoses
