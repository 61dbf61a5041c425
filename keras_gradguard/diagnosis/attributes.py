"""Step 4: what a step of the user's own notes in its model, put back.

A step may count, keep its last loss or average weights in Python attributes
and plain `tf.Variable`s, of which Keras knows nothing.
"""

import contextlib
import functools

import keras
import numpy as np
import tensorflow as tf

from keras_gradguard.diagnosis.keras_internals import layers_of

_PLAIN = (
    type(None),
    bool,
    int,
    float,
    str,
    tuple,
    tf.Tensor,
    np.ndarray,
    np.generic,
)


@contextlib.contextmanager
def attributes_kept(model):
    """Puts the attributes of a model and its layers back as they were.

    Those count that hold numbers, texts or tensors, or lists and dicts; not
    those that Keras itself gives a layer.

    Args:
        model: A Keras model.
    """
    own = [(vars(layer), _own_of(layer)) for layer in layers_of(model)]
    copies = [
        (value, value.copy())
        for _, values in own
        for value in values.values()
        if isinstance(value, (list, dict))
    ]
    try:
        yield
    finally:
        for names, values in own:
            for name, value in values.items():
                is_changed = names.get(name) is not value
                if is_changed and isinstance(value, _PLAIN):
                    names[name] = value
        for value, copy in copies:
            _put_back(value, copy)


def attributes_of(model):
    """Returns what tells whether a step has noted something since.

    Args:
        model: A Keras model; its layers are looked at, and its losses.
    """
    found = []
    given = tf.nest.flatten(model.loss)
    losses = [loss for loss in given if hasattr(loss, "__dict__")]
    for values in [*map(_own_of, layers_of(model)), *map(vars, losses)]:
        for name, value in values.items():
            if isinstance(value, (list, tuple, dict)):
                value = len(value)
            is_known = isinstance(value, (bool, int, float, str))
            found.append((name, value if is_known else id(value)))
    return found


def plain_variables(model):
    """Returns the `tf.Variable`s that a model and its layers hold.

    Args:
        model: A Keras model; its attributes are looked at, and lists and
            dicts among them.
    """
    found = {}
    for layer in layers_of(model):
        for value in _own_of(layer).values():
            items = value.values() if isinstance(value, dict) else [value]
            for item in items:
                parts = item if isinstance(item, (list, tuple)) else [item]
                for part in parts:
                    if isinstance(part, tf.Variable):
                        found[id(part)] = part
    return list(found.values())


def _own_of(layer):
    """Attributes that Keras has not given a layer which is made by now."""
    if not layer.built:
        return {}
    known = vars(layer).items()
    return {k: v for k, v in known if k not in _names_of_keras()}


@functools.cache
def _names_of_keras():
    return frozenset(vars(keras.Model()))


def _put_back(value, copy):
    """Gives a list or a dict its content; Keras watches their methods."""
    kind = list if isinstance(value, list) else dict
    if kind is list:
        before, now = copy, value
    else:
        before = [part for item in copy.items() for part in item]
        now = [part for item in value.items() for part in item]
    if list(map(id, before)) == list(map(id, now)):
        return
    kind.clear(value)
    (list.extend if kind is list else dict.update)(value, copy)
