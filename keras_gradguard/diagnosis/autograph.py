"""Lets AutoGraph convert the user's own losses and layers for one trace."""

import contextlib
import inspect

import tensorflow as tf

from keras_gradguard.diagnosis import source
from keras_gradguard.patch import replaced


@contextlib.contextmanager
def converted_calls(callables):
    """Converts Python control flow on tensors while the block runs.

    Args:
        callables: Keras losses and layers; those whose code is not the
            user's, or cannot be converted, stay as they are.
    """
    with contextlib.ExitStack() as stack:
        for item in callables:
            name = "fn" if inspect.isfunction(vars(item).get("fn")) else "call"
            converted = _converted(getattr(item, name))
            if converted is not None:
                stack.enter_context(replaced(item, name, converted))
        yield


def _converted(function):
    code = getattr(function, "__code__", None)
    if code is None or not source.is_users(code.co_filename):
        return None
    return tf.function(function, autograph=True)
