"""Step 4: a look at a step draws no random number that training would."""

import contextlib
import random

import numpy as np

from keras_gradguard.diagnosis import random_internals

# Not one that a user may have chosen: who draws by the same seed runs the
# same kernel, which goes on where it was; no state that is put back changes
# that.
_OTHER_SEED = "keras_gradguard"


def python_numbers():
    """Returns what tells whether Python, NumPy or a seed was drawn since."""
    kind, keys, *others = np.random.get_state()
    seeds = random_internals.op_seeds()
    state = None if seeds is None else seeds.getstate()
    return random.getstate(), kind, keys.tobytes(), others, state


@contextlib.contextmanager
def python_numbers_kept():
    """Keeps what Python and NumPy draw, and the seeds of TensorFlow's ops."""
    states = random.getstate(), np.random.get_state()
    seeds = random_internals.op_seeds()
    state = None if seeds is None else seeds.getstate()
    try:
        yield
    finally:
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
    with python_numbers_kept(), random_internals.seed_variables_kept():
        seeds = random_internals.op_seeds()
        if seeds is not None:
            seeds.seed(_OTHER_SEED)
        yield
