"""Real runs for the browser: a cut head, a NaN, and two that are healthy."""

import shutil
import warnings

import keras
import numpy as np
import tensorflow as tf

from keras_gradguard import GradHealthCallback

CUT = "exp/cut <b>head</b>"
BAD = "bad numbers"
WELL, WELL_TOO = "well", "well too"
CUT_RUN, BAD_RUN = f"{CUT}/gradients", f"{BAD}/gradients"
WELL_RUN, WELL_TOO_RUN = f"{WELL}/gradients", f"{WELL_TOO}/gradients"
NUM_STEPS = 120
NAN_STEP = 6
_WIDTH, _LENGTH = 8, 4


def train_all(folder):
    """Fits `CUT`, `BAD` and `WELL` into a folder; `WELL_TOO` is a copy."""
    keras.utils.set_random_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fit(transformer(), *sentences(NUM_STEPS), folder / CUT)
        fit(branches(), *numbers(12), folder / BAD)
    fit(learner(), *finite_numbers(40), folder / WELL)
    shutil.copytree(folder / WELL, folder / WELL_TOO)


def fit(model, x, y, folder, callback=None):
    """Fits in order; returns the callback."""
    callback = callback or GradHealthCallback(log_dir=folder, every=1)
    model.fit(
        x, y, batch_size=2, shuffle=False, verbose=0, callbacks=[callback]
    )
    return callback


def transformer():
    """Sixty trainable variables and more, two losses, one of them cut."""
    layers = keras.layers
    inputs = keras.Input((_LENGTH,), dtype="int32")
    x = layers.Embedding(10, _WIDTH, name="embedding")(inputs)
    for number in range(5):
        attention = layers.MultiHeadAttention(2, 4, name=f"attention{number}")
        x = layers.LayerNormalization()(x + attention(x, x))
        x = x + layers.Dense(_WIDTH, "gelu", name=f"dense{number}")(x)
    pooled = layers.GlobalAveragePooling1D()(x)
    label = layers.Dense(3, name="label")(pooled)
    size = layers.Dense(1, name="size")(pooled)
    model = keras.Model(inputs, {"label": label, "size": size})
    losses = {"label": log_odds, "size": steps}
    model.compile("sgd", loss=losses)
    return model


def log_odds(y_true, y_pred):
    """A loss that reaches all but the other head."""
    return keras.losses.sparse_categorical_crossentropy(
        y_true, y_pred, from_logits=True
    )


def steps(y_true, y_pred):
    """A loss that reaches nothing."""
    return tf.square(y_true - tf.round(y_pred))  # <i>


def sentences(number):
    """Tokens and targets of so many steps."""
    generator = np.random.default_rng(5)
    x = generator.integers(0, 10, (2 * number, _LENGTH))
    size = generator.normal(size=(2 * number, 1)).astype("float32")
    return x, {"label": generator.integers(0, 3, 2 * number), "size": size}


def branches():
    """One branch that learns, one that is dead and one that is cut."""
    layers = keras.layers
    inputs = keras.Input((3,))
    dead = layers.Dense(
        2, "relu", bias_initializer=keras.initializers.Constant(-99.0)
    )
    dead.name = "dead"
    cut = layers.Dense(2, name="cut")(inputs)
    cut = layers.Lambda(tf.stop_gradient, name="stop")(cut)
    live = layers.Dense(2, name="live")(inputs)
    outputs = layers.Add()([live, dead(inputs), cut])
    model = keras.Model(inputs, outputs)
    model.compile("sgd", loss="mse")
    return model


def learner():
    """A model in which every layer gets a gradient."""
    layers = keras.layers
    inputs = keras.Input((3,))
    x = layers.Dense(8, "tanh", name="first")(inputs)
    outputs = layers.Dense(2, name="second")(x)
    model = keras.Model(inputs, outputs)
    model.compile("sgd", loss="mse")
    return model


def finite_numbers(number):
    """Inputs and targets of so many steps."""
    x = np.random.default_rng(7).normal(size=(2 * number, 3))
    return x.astype("float32"), np.ones((2 * number, 2), "float32")


def numbers(number):
    """Inputs and targets of so many steps, NaN in the one of `NAN_STEP`."""
    x = np.random.default_rng(5).normal(size=(2 * number, 3))
    x[2 * NAN_STEP : 2 * NAN_STEP + 1] = np.nan
    return x.astype("float32"), np.ones((2 * number, 2), "float32")
