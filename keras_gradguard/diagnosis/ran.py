"""Step 4: runs an eager step once more, where no trace can follow it.

Python may loop over a tensor, ask for its length or its truth: a trace ends
there, an eager step goes on, and what cuts its gradient comes later.
"""

import contextlib
import functools

import keras
import tensorflow as tf

from keras_gradguard.diagnosis.eagerness import runs_eagerly
from keras_gradguard.diagnosis.observer import tensors_of
from keras_gradguard.diagnosis.randomness import random_state_kept
from keras_gradguard.diagnosis.sight import Sight
from keras_gradguard.diagnosis.trace import applied_nowhere, examining
from keras_gradguard.diagnosis.untouched import untouched


def ran_step(step, may_fail=False):
    """Runs an eager step outside the training, and returns what it shows.

    Args:
        step: The `Step`; its model is left as it was.
        may_fail: Whether a step that fails is to be shown up to there.

    Returns:
        A `Trace` of the ops that ran, or `None` if the step does not run
        eagerly here, or fails.
    """
    model = step.model
    leaves = tensors_of(step.data)
    if not runs_eagerly(model) or not leaves or not _are_eager(leaves):
        return None
    with untouched(model), applied_nowhere(model):
        run = functools.partial(model.train_step, step.data)
        sight = _seen(model, run, may_fail)
    return sight and sight.trace_of(step.variables)


def ran_loss(loss, y_true, y_pred):
    """Runs a loss and its gradient, and returns what they show.

    Args:
        loss: A `keras.losses.Loss`.
        y_true: Its targets: tensors, or a nest of them.
        y_pred: Its predictions, alike.

    Returns:
        A `Trace` of the ops that ran, its `outputs` the prediction, or
        `None` if the loss does not run eagerly here, or fails.
    """
    leaves = tensors_of((y_true, y_pred))
    if not leaves or not _are_eager(leaves):
        return None
    made = []

    def run():
        # What a loss reads out is known by the op that made it.
        prediction = keras.tree.map_structure(tf.identity, y_pred)
        made.extend(tensors_of(prediction))
        floats = [tensor for tensor in made if tensor.dtype.is_floating]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(floats)
            value = loss(y_true, prediction)
        tape.gradient(value, floats)

    with random_state_kept(), examining():
        sight = _seen(None, run)
    trace = sight and sight.trace_of(())
    if trace is not None:
        trace.outputs = sight.known(made)
    return trace


def _are_eager(tensors):
    eager = all(hasattr(tensor, "numpy") for tensor in tensors)
    return eager and tf.executing_eagerly()


def _seen(model, run, may_fail=False):
    """Returns the `Sight` of what runs, or `None` if it must not fail."""
    sight = Sight(model, _OpenDoor(), _nothing, _nothing)
    sight.open()
    try:
        run()
    except Exception:  # noqa: BLE001
        # The user's code may raise anything; its trace has failed already,
        # and that is what is told of it then.
        return sight if may_fail else None
    finally:
        sight.close()
    return sight


class _OpenDoor:
    """Passes each fault on: whoever asks has a door of its own."""

    is_open = True
    guarded = staticmethod(contextlib.nullcontext)


def _nothing(*_):
    """Neither functions nor optimizers matter here."""
