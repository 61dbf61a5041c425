"""Layers that a callback unfreezes while `fit` runs."""

import keras
import numpy as np
import pytest

from keras_gradguard import GradHealthCallback

generator = np.random.default_rng(0)
X = generator.normal(size=(16, 4)).astype("float32")
Y = np.eye(3, dtype="float32")[generator.integers(0, 3, 16)]


class Unfreeze(keras.callbacks.Callback):
    """Unfreezes the body, but for its normalisation."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        """Changes `trainable`, which the step that is traced does not see."""
        if epoch == self.epoch:
            body = self.model.get_layer("body")
            body.trainable = True  # BREAK
            body.get_layer("scale").trainable = False


def made(eager):
    """A head on a body that is frozen."""
    keras.utils.set_random_seed(1)
    body = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", name="first"),
            keras.layers.LayerNormalization(name="scale"),
            keras.layers.Dense(8, activation="tanh", name="second"),
        ],
        name="body",
    )
    body.trainable = False
    model = keras.Sequential(
        [keras.Input((4,)), body, keras.layers.Dense(3, name="head")]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=eager)
    return model


def fit(model, *callbacks):
    """Trains, one step an epoch; returns the report."""
    guard = GradHealthCallback(every=1)
    model.fit(
        *(X, Y),
        batch_size=16,
        epochs=18,
        verbose=0,
        callbacks=[*callbacks, guard],
    )
    assert guard.report.not_checked is None
    return guard.report


def line():
    """The number of the line that unfreezes."""
    with open(__file__) as file:
        return next(n for n, t in enumerate(file, 1) if "# BREAK" in t)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("epoch", [2, 8], ids=["early", "late"])
def test_one_card_with_the_line_of_the_callback(epoch):
    """It hits both layers, and tells how to go on."""
    (found,) = fit(made(False), Unfreeze(epoch)).diagnoses
    assert ("GG314", line()) == (found.code, found.line)
    assert 4 == len(found.variables)
    assert all("scale" not in path for path in found.variables)
    (advice,) = found.help
    assert advice.after.count("model.fit(x, y)") == 2


def test_two_fits_with_a_compile_between():
    """What the card tells mends it."""
    model = made(False)
    assert () == fit(model).diagnoses
    model.get_layer("body").trainable = True
    model.compile(keras.optimizers.Adam(0.01), "mse")
    assert () == fit(model).diagnoses


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_many_layers_before_fit_are_one_card():
    """Without a compile after the change nothing of the body is trained."""
    model = made(False)
    fit(model)
    model.get_layer("body").trainable = True
    (found,) = fit(model).diagnoses
    assert ("GG314", 6) == (found.code, len(found.variables))
    assert "compile again" in found.help[0].text
