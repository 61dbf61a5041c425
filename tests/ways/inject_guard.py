"""A pytest plugin: every `fit` of the process gets a `GradHealthCallback`.

For Keras' own tests, see `test_keras_own.py`; nothing of it is shipped.
"""

import functools
import importlib.util
import os
import sys
import types

import keras
import keras.src.backend.tensorflow.trainer as trainers

from keras_gradguard import GradHealthCallback

SWITCH = "INJECT_GUARD"  # 1: with the guard, else only the stand-ins
KIND = trainers.TensorFlowTrainer
plain = KIND.fit


@functools.wraps(plain)
def fit(self, *arguments, callbacks=None, **named):
    """Fits with one callback more."""
    is_list = isinstance(callbacks, keras.callbacks.CallbackList)
    if is_list or len(arguments) > 5:
        return plain(self, *arguments, callbacks=callbacks, **named)
    known = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
    known = [callback for callback in known if callback is not None]
    guarded = [*known, GradHealthCallback(every=1)]
    return plain(self, *arguments, callbacks=guarded, **named)


def pytest_configure(config):
    """Puts it in place before the tests are collected."""
    del config
    if importlib.util.find_spec("jax") is None:
        # The tests import it whatever the backend, and use it with JAX only.
        sys.modules["jax"] = types.ModuleType("jax")
    if os.environ.get(SWITCH) == "1":
        KIND.fit = fit
