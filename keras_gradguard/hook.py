"""Step 1 of 5: hook the training step of one model, and undo it.

Only instances are touched: `model.train_function` while `fit` runs, and
`optimizer.apply` while a step runs.
"""

import contextlib
import functools
import threading

import keras
import tensorflow as tf

from keras_gradguard.capture import Capture
from keras_gradguard.diagnosis import internals
from keras_gradguard.diagnosis.trace import optimizers_of
from keras_gradguard.door import Door

_running = threading.local()


def running_hook():
    """Returns the `Hook` whose step runs in this thread, or `None`."""
    stack = getattr(_running, "stack", None)
    return stack[-1] if stack else None


def hook_of(model):
    """Returns the hook of a training that begins, setting it if need be.

    A hook that has run already is left over from a `fit` that ended in an
    exception outside the training step; it is taken away first.
    """
    owner = getattr(model.train_function, "__self__", None)
    if isinstance(owner, Hook):
        if not owner.has_run:
            return owner
        for watcher in list(owner.watchers):
            watcher.finish()
    return Hook(model)


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
        self.is_expected = self.has_run = False
        self._plain = model.train_function
        step = model.train_step
        model.__dict__["train_step"] = self._guarded_step(step)
        try:
            model.make_train_function(force=True)
        finally:
            del model.__dict__["train_step"]
        self._guarded = model.train_function
        model.train_function = self.run
        self._door = Door()
        self._hooks = [
            (optimizer, self._hooked_apply(optimizer))
            for optimizer in optimizers_of(model)
        ]

    def undo(self, watcher):
        """Takes a watcher away; the last one leaves the model as it was."""
        if watcher in self.watchers:
            self.watchers.remove(watcher)
        if not self.watchers and self.model.train_function == self.run:
            self.model.train_function = self._plain

    def run(self, iterator):
        """Runs one call of the train function, guarded if it is `fit`'s own.

        Args:
            iterator: What Keras passes to its train function.
        """
        if not self.is_expected:
            return self._plain(iterator)
        self.is_expected, self.has_run = False, True
        _running.stack = [*getattr(_running, "stack", ()), self]
        try:
            with self._hooked_optimizers():
                return self._guarded(iterator)
        except (StopIteration, tf.errors.OutOfRangeError):
            raise
        except BaseException as error:
            for watcher in list(self.watchers):
                watcher.see_failure(error)
            raise
        finally:
            _running.stack.pop()

    def _guarded_step(self, step):
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
    def _hooked_optimizers(self):
        kept = []
        for optimizer, apply in self._hooks:
            kept.append((optimizer, optimizer.__dict__.get("apply")))
            optimizer.__dict__["apply"] = apply
        try:
            yield
        finally:
            for optimizer, own in kept:
                if own is None:
                    optimizer.__dict__.pop("apply", None)
                else:
                    optimizer.__dict__["apply"] = own

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
