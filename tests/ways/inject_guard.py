"""A pytest plugin: every `fit` of the process has the guard.

For Keras' own tests, see `test_keras_own.py`; nothing of it is shipped.
"""

import functools
import importlib.util
import os
import sys
import types

import keras
import keras.src.backend.tensorflow.trainer as trainers
from keras.src.trainers.trainer import Trainer

from keras_gradguard import GradGuardLoss, GradHealthCallback

# What is put in: `nothing`, `callback`, `loss` or `both`.
SWITCH = "INJECT_GUARD"
KIND = trainers.TensorFlowTrainer
plain_fit, plain_compile = KIND.fit, Trainer.compile


@functools.wraps(plain_fit)
def fit(self, *arguments, callbacks=None, **named):
    """Fits with one callback more."""
    is_list = isinstance(callbacks, keras.callbacks.CallbackList)
    if is_list or len(arguments) > 5:
        return plain_fit(self, *arguments, callbacks=callbacks, **named)
    known = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
    known = [callback for callback in known if callback is not None]
    guarded = [*known, GradHealthCallback(every=1)]
    return plain_fit(self, *arguments, callbacks=guarded, **named)


@functools.wraps(plain_compile)
def compile_guarded(self, optimizer="rmsprop", loss=None, *others, **named):
    """Compiles with a guarded loss, where there is one."""
    if isinstance(loss, str) or callable(loss):
        loss = GradGuardLoss(loss)
    return plain_compile(self, optimizer, loss, *others, **named)


def pytest_configure(config):
    """Puts it in place before the tests are collected."""
    del config
    if importlib.util.find_spec("jax") is None:
        # The tests import it whatever the backend, and use it with JAX only.
        sys.modules["jax"] = types.ModuleType("jax")
    guard = os.environ.get(SWITCH, "nothing")
    if guard in ("callback", "both"):
        KIND.fit = fit
    if guard in ("loss", "both"):
        Trainer.compile = compile_guarded
