"""Random state that is the same after a look as before it."""

import contextlib
import functools
import random
import threading

import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state
from tensorflow.python.eager import context
from tensorflow.python.ops import stateful_random_ops

from keras_gradguard.backend.tensorflow.internals.variables import has_value

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
    later without the block. A function may be traced around it.
    """
    known = [(get(), put) for get, put in _GENERATORS]
    with tf.init_scope():
        kept = [
            (generator.state, tf.identity(generator.state))
            for generator, _ in known
            if generator is not None and has_value(generator.state)
        ]
    try:
        yield
    finally:
        for generator, put in known:
            if generator is None:
                put(None)
        with tf.init_scope():
            for state, numbers in kept:
                state.assign(numbers)


# Not one that a user may have chosen: who draws by the same seed runs the
# same kernel, which goes on where it was; no state that is put back changes
# that.
_OTHER_SEED = "keras_gradguard"
_thread = threading.local()


class Drawing:
    """Says whether other threads draw numbers while the block runs.

    A generator of batches runs ahead of the training, in a thread of its own.
    To put the numbers of Python and NumPy back would repeat those that it has
    drawn in the meantime, for the batches to come.

    Args:
        is_elsewhere: Whether they do.
    """

    def __init__(self, is_elsewhere):
        self._is_elsewhere = is_elsewhere
        self._before = []

    def __enter__(self):
        """Takes note of it."""
        self._before.append(_is_elsewhere())
        _thread.is_elsewhere = self._is_elsewhere

    def __exit__(self, *_):
        """Takes the note back."""
        _thread.is_elsewhere = self._before.pop()


def _is_elsewhere():
    return getattr(_thread, "is_elsewhere", False)


def python_numbers():
    """Returns what tells whether Python, NumPy or a seed was drawn since."""
    kind, keys, *others = np.random.get_state()
    seeds = op_seeds()
    state = None if seeds is None else seeds.getstate()
    return random.getstate(), kind, keys.tobytes(), others, state


@contextlib.contextmanager
def python_numbers_kept():
    """Keeps what Python and NumPy draw, and the seeds of TensorFlow's ops."""
    states = None
    if not _is_elsewhere():
        states = random.getstate(), np.random.get_state()
    seeds = op_seeds()
    state = None if seeds is None else seeds.getstate()
    try:
        yield
    finally:
        if states is not None:
            random.setstate(states[0])
            np.random.set_state(states[1])
        if seeds is not None:
            seeds.setstate(state)


@contextlib.contextmanager
def random_state_kept():
    """Keeps the random state of Python, NumPy, TensorFlow and Keras.

    Eager ops that are given no seed draw other numbers within the block than
    they would have.
    """
    with python_numbers_kept(), seed_variables_kept():
        seeds = op_seeds()
        if seeds is not None:
            seeds.seed(_OTHER_SEED)
        yield


@contextlib.contextmanager
def nothing_drawn(is_elsewhere):
    """A block of the guard's own in which a training runs: nothing is drawn.

    Args:
        is_elsewhere: See `Drawing`.
    """
    with Drawing(is_elsewhere), random_state_kept():
        yield
