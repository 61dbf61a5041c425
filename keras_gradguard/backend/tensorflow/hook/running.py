"""Which hooked training step runs in this thread, if any."""

import sys
import threading
import weakref

import keras
import tensorflow as tf

from keras_gradguard.model.layers import data_of_fit, is_drawn_elsewhere

_BEGINS = ("on_train_begin", "on_train_batch_begin")


def running_fit():
    """Returns what lives as long as the `fit` that begins, or a step of it.

    Returns:
        A tuple, empty outside of one: what Keras' own `fit`, whoever has
        called it, goes through its data with; and the list of the callbacks,
        which may be the user's own.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name in _BEGINS:
            owner = frame.f_locals.get("self")
            if isinstance(owner, keras.callbacks.CallbackList):
                data = data_of_fit(frame.f_back)
                return (owner,) if data is None else (data, owner)
        frame = frame.f_back
    return ()


def fit_draws_elsewhere(fit):
    """Returns whether other threads may draw numbers for the batches.

    Args:
        fit: What `running_fit` returned.
    """
    return any(map(is_drawn_elsewhere, fit))


def end_with(fit, hook):
    """Ends a hook when a `fit` has ended, however it does.

    Args:
        fit: What `running_fit` returned.
        hook: Has `end()` and `barrier`.

    Returns:
        A function that returns whether a `fit` is that one.
    """
    for part in fit:
        weakref.finalize(part, _end, weakref.ref(hook)).atexit = False
    known = weakref.ref(fit[0]) if fit else lambda: None
    return lambda other: known() is (other[0] if other else None)


def _end(reference):
    hook = reference()
    if hook is not None:
        with hook.barrier.guarded():
            hook.end()


def num_replicas(model):
    """Returns how many replicas train a model at once, an int.

    Args:
        model: A Keras model.
    """
    strategy = getattr(model, "distribute_strategy", None)
    return getattr(strategy, "num_replicas_in_sync", 1)


def is_chief(model):
    """Returns whether this process is the one that writes.

    Args:
        model: A Keras model; of several machines that train it with
            `MultiWorkerMirroredStrategy` one is the chief.
    """
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is None:
        strategy = tf.distribute.get_strategy()
    resolver = getattr(strategy, "cluster_resolver", None)
    kind = getattr(resolver, "task_type", None)
    if kind is None:
        return True
    cluster = resolver.cluster_spec().as_dict()
    if "chief" in cluster:
        return kind == "chief"
    return kind == "worker" and resolver.task_id == 0


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
    """Returns the `FitHook` whose step runs in this thread, or `None`."""
    for known in reversed(getattr(_thread, "stack", ())):
        hook = known()
        # One that could not be taken away may be left.
        if hook is not None and hook.is_running:
            return hook
    return None


class Running:
    """Makes a hook the running one while the block runs.

    Args:
        hook: The `FitHook`; it has `is_running`.
    """

    def __init__(self, hook):
        # The stack lives as long as its thread.
        self._hook = weakref.ref(hook)

    def __enter__(self):
        """Notes it."""
        if not hasattr(_thread, "stack"):
            _thread.stack = []
        _thread.stack.append(self._hook)

    def __exit__(self, kind, error, traceback):
        """Takes the note back."""
        while _thread.stack and _thread.stack.pop() is not self._hook:
            pass
