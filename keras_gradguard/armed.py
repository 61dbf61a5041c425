"""Step 1: ends a hook with the `fit` that it was made in.

Another callback may raise where no callback hears of it: before the first
step, or between our `on_train_batch_begin` and the call of the train function.
But the list of the callbacks dies with the `fit` that made it.
"""

import sys
import weakref

import keras

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
