"""Step 1 of 5: hook the training step of one model, and undo it.

Only instances are touched, and only for one step at a time:
`model.train_function` and `optimizer.apply`.
"""

import contextlib
import functools
import threading
import weakref

import keras
import tensorflow as tf

from keras_gradguard.capture import Capture
from keras_gradguard.diagnosis import internals
from keras_gradguard.diagnosis.trace import optimizers_of
from keras_gradguard.door import Door
from keras_gradguard.patch import replaced

_running = threading.local()
_hooks = weakref.WeakKeyDictionary()


def running_hook():
    """Returns the `Hook` whose step runs in this thread, or `None`."""
    stack = getattr(_running, "stack", None)
    return stack[-1] if stack else None


def hook_of(model):
    """Returns the hook of a training that begins, making it if need be.

    A hook that has run already is left over from a `fit` that ended in an
    exception outside the training step; it is taken away first.
    """
    hook = _hooks.get(model)
    if hook is not None and hook.has_run:
        for watcher in list(hook.watchers):
            watcher.finish()
        hook = None
    if hook is None:
        hook = _hooks[model] = Hook(model)
    return hook


class Hook:
    """Shows each training step of one model to its watchers.

    A watcher has `see_gradients(variables, gradients)`, which returns whether
    the update is applied; `see_apply_error(error)` for a ValueError of the
    optimizer; `see_step_error(error)` for an exception inside a step; and
    `see_failure(error)` for one that leaves the train function; and
    `finish()`.

    Args:
        model: A compiled Keras model whose `train_function` is made.
    """

    def __init__(self, model):
        self.model = model
        self.watchers = []
        self.captures = {}
        self.data = None
        self.has_run = False
        plain = model.train_function
        self._guarded_step = self._guard(model.train_step)
        try:
            with replaced(model, "train_step", self._guarded_step):
                model.make_train_function(force=True)
            self._guarded = model.train_function
        finally:
            model.train_function = plain
        self._door = Door()
        self._hooks = [
            (optimizer, self._hooked_apply(optimizer))
            for optimizer in optimizers_of(model)
        ]

    def undo(self, watcher):
        """Takes a watcher away, and with the last one the hook."""
        if watcher in self.watchers:
            self.watchers.remove(watcher)
        if not self.watchers and _hooks.get(self.model) is self:
            del _hooks[self.model]

    def guard_next(self):
        """Puts the guarded train function in place for one call."""
        names = vars(self.model)
        if names["train_function"] != self._run:
            self._plain = names["train_function"]
            names["train_function"] = self._run

    def _run(self, iterator):
        """Runs one guarded call; the model is as before when it ends."""
        vars(self.model)["train_function"] = self._plain
        self.has_run = True
        _running.stack = [*getattr(_running, "stack", ()), self]
        try:
            with self._hooked():
                return self._guarded(iterator)
        except (StopIteration, tf.errors.OutOfRangeError):
            raise
        except BaseException as error:
            for watcher in list(self.watchers):
                watcher.see_failure(error)
            raise
        finally:
            _running.stack.pop()

    def _guard(self, step):
        @functools.wraps(step)
        def train_step(data):
            self.data = keras.tree.map_structure(_spec, data)
            try:
                return step(data)
            except Exception as error:
                for watcher in self.watchers:
                    watcher.see_step_error(error)
                raise

        return train_step

    @contextlib.contextmanager
    def _hooked(self):
        with contextlib.ExitStack() as stack:
            # Older Keras looks `train_step` up only when it traces.
            step = replaced(self.model, "train_step", self._guarded_step)
            stack.enter_context(step)
            for optimizer, apply in self._hooks:
                stack.enter_context(replaced(optimizer, "apply", apply))
            yield

    def _hooked_apply(self, optimizer):
        original = optimizer.apply

        @functools.wraps(original)
        def apply(grads, trainable_variables=None):
            gradients = list(grads)
            variables = trainable_variables
            if variables is None:
                variables = internals.variables_of(optimizer)
            variables = list(variables)
            proceed = [
                watcher.see_gradients(variables, gradients)
                for watcher in list(self.watchers)
            ]
            if not all(proceed):
                return None
            if self._door.is_open:
                with self._door.guarded():
                    self._capture(optimizer, variables, gradients)
            try:
                return original(gradients, trainable_variables and variables)
            except ValueError as error:
                for watcher in self.watchers:
                    watcher.see_apply_error(error)
                raise

        return apply

    def _capture(self, optimizer, variables, gradients):
        # The statistics of one replica are not those of the step.
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            return
        key = (id(optimizer), tuple(map(id, variables)))
        if key not in self.captures:
            self.captures[key] = Capture(optimizer, variables)
        self.captures[key].store(gradients)


def _spec(value):
    """The shape and dtype of a part of the batch, without its values."""
    if isinstance(value, tf.Tensor):
        return tf.TensorSpec(value.shape, value.dtype)
    if tf.is_tensor(value) or hasattr(value, "_type_spec"):
        return tf.type_spec_from_value(value)
    return value
