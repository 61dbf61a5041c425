"""What the tests share: a small model, a small batch, one guarded fit."""

import inspect
import warnings

import keras
import numpy as np
import pytest

from keras_gradguard import GradHealthCallback

_generator = np.random.default_rng(7)
X = _generator.normal(size=(16, 4)).astype("float32")
Y = np.eye(3, dtype="float32")[_generator.integers(0, 3, 16)]
MODES = [False, True]
NAMES = ["compiled", "eager"]


def classifier(loss, eager=False, middle=None, optimizer="sgd", **dense):
    """Returns a compiled two-layer model, a layer in its middle if given."""
    hidden = keras.layers.Dense(8, name="hidden", **dense)
    layers = [keras.Input((4,)), hidden]
    if middle is not None:
        layers.append(middle)
    head = keras.layers.Dense(3, name="head", **dense)
    model = keras.Sequential([*layers, head], name="net")
    model.compile(optimizer, loss=loss, run_eagerly=eager)
    return model


def fit(model, x=X, y=Y, **arguments):
    """Fits one step under a callback.

    Returns:
        The callback and the exception that ended `fit`, or `None`.
    """
    callback = GradHealthCallback(**{"every": 1, **arguments})
    error = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            model.fit(x, y, batch_size=16, verbose=0, callbacks=[callback])
        except Exception as raised:
            error = raised
    return callback, error


def skip_on_keras_3_5(reason):
    """Skips a test of what Keras 3.5 cannot do, guarded or not.

    Args:
        reason: What it cannot do.
    """
    if keras.version().startswith("3.5."):
        pytest.skip(f"Keras 3.5 {reason}")


def marked(function, mark="# cut"):
    """Returns file and number of the line of a function that has a mark."""
    lines, start = inspect.getsourcelines(function)
    found = [
        n for n, text in enumerate(lines, start) if text.rstrip().endswith(mark)
    ]
    assert len(found) == 1
    return inspect.getsourcefile(function), found[0]
