"""Which hooked training step runs in this thread, if any."""

import sys
import threading
import weakref

import keras
import tensorflow as tf

_BEGINS = ("on_train_begin", "on_train_batch_begin")


def running_fit():
    """Returns what lives as long as the `fit` that begins, or a step of it.

    Returns:
        The list of its callbacks, `None` outside of one.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name in _BEGINS:
            owner = frame.f_locals.get("self")
            if isinstance(owner, keras.callbacks.CallbackList):
                return owner
        frame = frame.f_back
    return None


def end_with(fit, hook):
    """Ends a hook when a `fit` has ended, however it does.

    Args:
        fit: What `running_fit` returned.
        hook: Has `end()`.

    Returns:
        A function that returns what is left of `fit`, or `None`.
    """
    if fit is None:
        return lambda: None
    weakref.finalize(fit, _end, weakref.ref(hook)).atexit = False
    return weakref.ref(fit)


def _end(reference):
    hook = reference()
    if hook is not None:
        hook.end()


def num_replicas(model):
    """Returns how many replicas train a model at once, an int.

    Args:
        model: A Keras model.
    """
    strategy = getattr(model, "distribute_strategy", None)
    return getattr(strategy, "num_replicas_in_sync", 1)


def is_measured_here():
    """Returns whether the replica that runs here is the one that measures.

    Its gradients are those of the step once the replicas have added them
    up, so one of them is enough.
    """
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return True
    number = replica.replica_id_in_sync_group
    return 0 == (
        tf.get_static_value(number) if tf.is_tensor(number) else number
    )


_thread = threading.local()


def running_hook():
    """Returns the `Hook` whose step runs in this thread, or `None`."""
    stack = getattr(_thread, "stack", None)
    return stack[-1] if stack else None


class Running:
    """Makes a hook the running one while the block runs.

    Args:
        hook: The `Hook`.
    """

    def __init__(self, hook):
        self._hook = hook

    def __enter__(self):
        """Notes it."""
        if not hasattr(_thread, "stack"):
            _thread.stack = []
        _thread.stack.append(self._hook)

    def __exit__(self, kind, error, traceback):
        """Takes the note back."""
        _thread.stack.pop()
