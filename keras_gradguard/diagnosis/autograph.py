"""Lets AutoGraph convert the user's own losses and layers for one trace."""

import contextlib
import inspect

import tensorflow as tf

from keras_gradguard.diagnosis import source


@contextlib.contextmanager
def converted_calls(callables):
    """Converts Python control flow on tensors while the block runs.

    Args:
        callables: Keras losses and layers; those whose code is not the
            user's, or cannot be converted, stay as they are.
    """
    kept = []
    try:
        for item in callables:
            name = "fn" if inspect.isfunction(vars(item).get("fn")) else "call"
            own = vars(item).get(name)
            converted = _converted(own or getattr(item, name))
            if converted is not None:
                kept.append((item, name, own))
                vars(item)[name] = converted
        yield
    finally:
        for item, name, own in kept:
            if own is None:
                del vars(item)[name]
            else:
                vars(item)[name] = own


def _converted(function):
    code = getattr(function, "__code__", None)
    if code is None or not source.is_users(code.co_filename):
        return None
    return tf.function(function, autograph=True)
