"""What the healthy cases share: small data, small networks, one way to fit."""

import weakref

import keras
import numpy as np
import tensorflow as tf

_COMPILED = weakref.WeakKeyDictionary()
_FITTED = weakref.WeakKeyDictionary()


def compile_with(model, loss=None, fit=None, **arguments):
    """Compiles the model and remembers how, for `recompile` and `fit`."""
    arguments = {"optimizer": "adam", "loss": loss, **arguments}
    if loss is None:
        del arguments["loss"]
    _COMPILED[model] = arguments
    _FITTED[model] = fit or {}
    model.compile(**arguments)
    return model


def recompile(model, **changes):
    """Compiles the model once more, with some arguments changed."""
    model.compile(**{**_COMPILED[model], **changes})


def compiled_loss(model):
    """Returns the loss that the model was compiled with, or `None`."""
    return _COMPILED[model].get("loss")


def fit(model, x, y, callbacks=(), **changes):
    """Trains one epoch, two batches or so, without a word."""
    arguments = {"batch_size": 8, "epochs": 1, "verbose": 0}
    if isinstance(x, tf.data.Dataset):
        del arguments["batch_size"]
        arguments["shuffle"] = False
    arguments.update(_FITTED[model], **changes)
    return model.fit(x, y, callbacks=list(callbacks), **arguments)


def normal(*shape):
    """Returns float32 noise, the same in every run."""
    generator = np.random.default_rng(sum(shape))
    return generator.normal(size=shape).astype("float32")


def integers(high, *shape):
    """Returns integers below `high`, the same in every run."""
    generator = np.random.default_rng(high)
    return generator.integers(high, size=shape).astype("int32")


def dense(outputs=1, activation=None, inputs=4, hidden=16):
    """Returns a network with one hidden layer."""
    return keras.Sequential(
        [
            keras.Input((inputs,)),
            keras.layers.Dense(hidden, activation="relu"),
            keras.layers.Dense(outputs, activation=activation),
        ]
    )


def regression(loss, outputs=1, **arguments):
    """Returns a dense model with this loss, and numbers to fit."""
    model = compile_with(dense(outputs), loss, **arguments)
    return model, normal(16, 4), normal(16, outputs)


def binary(loss, **arguments):
    """Returns a dense model with this loss, and labels 0 and 1 to fit."""
    model = compile_with(dense(1, "sigmoid"), loss, **arguments)
    return model, normal(16, 4), integers(2, 16, 1).astype("float32")


def segmentation(loss, **arguments):
    """Returns a convolution with this loss, and masks to fit."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(1, 1, activation="sigmoid"),
        ]
    )
    compile_with(model, loss, **arguments)
    masks = integers(2, 16, 8, 8, 1).astype("float32")
    return model, normal(16, 8, 8, 3), masks
