"""Step 1: takes the guarded train function away if it is never called.

Between our `on_train_batch_begin` and the call of the train function another
callback may raise. No callback hears of it, but the list of the callbacks
dies with the `fit` that made it.
"""

import sys
import weakref

import keras


def take_back_later(hook):
    """Lets a hook be taken back when the running `fit` has ended.

    Args:
        hook: Has `take_back()`.

    Returns:
        A weak reference to what dies with the `fit`, `None` outside of one.
    """
    owner = _callback_list()
    if owner is None:
        return None
    weakref.finalize(owner, _take_back, weakref.ref(hook)).atexit = False
    return weakref.ref(owner)


def _take_back(reference):
    hook = reference()
    if hook is not None:
        hook.take_back()


def _callback_list():
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "on_train_batch_begin":
            owner = frame.f_locals.get("self")
            if isinstance(owner, keras.callbacks.CallbackList):
                return owner
        frame = frame.f_back
    return None
