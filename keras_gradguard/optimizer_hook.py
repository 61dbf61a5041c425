"""Step 1 of 5: hook one optimizer, where the gradients of a step pass."""

import functools
import weakref

import tensorflow as tf

from keras_gradguard import at_hand
from keras_gradguard.diagnosis import keras_internals
from keras_gradguard.diagnosis.trace import is_examining
from keras_gradguard.replicas import is_measured_here
from keras_gradguard.summed import SummedHook


class OptimizerHook:
    """Shows the gradients of one optimizer to the watchers of a `Hook`.

    Args:
        hook: The `Hook` of the model.
        optimizer: The optimizer, the outermost if it wraps another.

    Attributes:
        patches: `(instance, name, value)`s that put it in place.
    """

    def __init__(self, hook, optimizer):
        self._hook = hook
        self._optimizer = optimizer
        self._summed = None
        self.patches = [
            (optimizer, "apply", self._hooked_apply()),
            (optimizer, "scale_loss", self._hooked_scale()),
        ]
        if hook.num_replicas > 1:
            inner = keras_internals.updating(optimizer)
            self._summed = SummedHook(
                hook, inner, lambda known: hook.probe.after_apply(known)
            )
            self.patches += self._summed.patches

    def _hooked_scale(self):
        original = self._optimizer.scale_loss

        @functools.wraps(original)
        def scale_loss(loss):
            with self._hook.door.guarded():
                if self._hook.is_probed():
                    self._hook.probe.see_loss(loss)
            return original(loss)

        return scale_loss

    def _hooked_apply(self):
        hook, original = self._hook, self._optimizer.apply

        @functools.wraps(original)
        def apply(grads, trainable_variables=None):
            gradients = list(grads)
            variables = trainable_variables
            if variables is None:
                variables = keras_internals.variables_of(self._optimizer)
            variables = list(variables)
            unknown = keras_internals.unknown_to(self._optimizer, variables)
            if unknown and hook.is_stale:
                # As the step that is at hand already: it knows none of them.
                gradients, variables = at_hand.without(
                    unknown, gradients, variables
                )
            proceed = [
                watcher.see_gradients(variables, gradients)
                for watcher in list(hook.watchers)
            ]
            if not all(proceed):
                return None
            if not tf.executing_eagerly() and not is_examining():
                graph = tf.compat.v1.get_default_graph()
                hook.graph = weakref.ref(graph)

            def make():
                return original(gradients, trainable_variables and variables)

            try:
                return self._measured(variables, gradients, make)
            except ValueError as error:
                for watcher in hook.watchers:
                    watcher.see_apply_error(error, variables, unknown)
                raise

        return apply

    def _measured(self, variables, gradients, make):
        """Makes an update, and measures its gradients and its effect."""
        hook, known = self._hook, None
        if hook.num_replicas > 1:
            # Those of one replica are not those of the step.
            if variables and is_measured_here():
                self._summed.applied = self._optimizer, variables
            return make()
        with hook.door.guarded():
            if variables and hook.is_probed():
                hook.first_trace.build(self._optimizer, variables)
            if variables and hook.is_probed():
                known = hook.probe.before_apply(
                    self._optimizer, variables, gradients
                )
        done = hook.probe.apply(known, make) if known else make()
        with hook.door.guarded():
            if known:
                hook.probe.after_apply(known)
        return done
