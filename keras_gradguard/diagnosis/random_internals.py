"""The private internals of TensorFlow's and Keras' random numbers, each once.

`tests/diagnosis/test_internals.py` names what a new release has changed.
"""

import contextlib
import functools

import tensorflow as tf
from keras.src.backend.common import global_state
from tensorflow.python.eager import context
from tensorflow.python.ops import stateful_random_ops

_SEEDS = "global_seed_generator"
_GENERATORS = (
    (
        functools.partial(global_state.get_global_attribute, _SEEDS),
        functools.partial(global_state.set_global_attribute, _SEEDS),
    ),
    (
        functools.partial(getattr, stateful_random_ops, "global_generator"),
        functools.partial(setattr, stateful_random_ops, "global_generator"),
    ),
)


def op_seeds():
    """Returns the `random.Random` that seeds eager ops, `None` without one."""
    return getattr(context.context(), "_rng", None)


@contextlib.contextmanager
def seed_variables_kept():
    """Keeps the state of TensorFlow's global generator and Keras' own.

    One that is first made in the block is forgotten: its seed would be drawn
    later without the block.
    """
    known = [(get(), put) for get, put in _GENERATORS]
    kept = [
        (generator.state, tf.identity(generator.state))
        for generator, _ in known
        if generator is not None
    ]
    try:
        yield
    finally:
        for generator, put in known:
            if generator is None:
                put(None)
        for state, numbers in kept:
            state.assign(numbers)
