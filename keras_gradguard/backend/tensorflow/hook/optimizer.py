"""Step 1 of 5: hook one optimizer, where the gradients of a step pass."""

import functools
import weakref

import tensorflow as tf

from keras_gradguard.backend.tensorflow.capture.bad_step import made_once
from keras_gradguard.backend.tensorflow.hook.running import is_measured_here
from keras_gradguard.backend.tensorflow.hook.train_function import without
from keras_gradguard.backend.tensorflow.tracing.restore import is_examining
from keras_gradguard.model.optimizers import (
    REDUCE,
    UPDATE,
    unknown_to,
    updating,
    variables_of,
)


class SummedHook:
    """Measures the updates that several replicas make together.

    A loss scale goes on in threads of its own behind `apply`, so that what is
    known of an update stands here, and not with its thread.

    Args:
        hook: Has `door`, `probe` and `is_probed()`.
        optimizer: The optimizer that makes them, the innermost one.
        after: Measures what an update has done, given what
            `probe.before_apply` returned.

    Attributes:
        applied: `(optimizer, variables)` of the update to come, with the
            outermost optimizer.
        patches: `(instance, name, value)`s that put it in place.
    """

    def __init__(self, hook, optimizer, after):
        self._hook = hook
        self._after = after
        self.applied, self._known = None, None
        self.patches = [
            (optimizer, name, wrap(getattr(optimizer, name)))
            for name, wrap in (
                (REDUCE, self._hooked_reduce),
                (UPDATE, self._hooked_update),
            )
        ]

    def _hooked_reduce(self, original):
        @functools.wraps(original)
        def reduce(grads_and_vars):
            reduced = list(original(grads_and_vars))
            with self._hook.door.guarded():
                if self.applied and self._hook.is_probed():
                    self._known = self._before(*self.applied, reduced)
                    self.applied = None
            return reduced

        return reduce

    def _before(self, optimizer, variables, reduced):
        found = {id(variable): gradient for gradient, variable in reduced}
        gradients = [
            found.get(id(getattr(variable, "value", variable)))
            for variable in variables
        ]
        # The optimizer has taken the loss scale out by now.
        return self._hook.probe.before_apply(
            optimizer, variables, gradients, is_scaled=False
        )

    def _hooked_update(self, original):
        @functools.wraps(original)
        def update(*arguments, **named):
            done = original(*arguments, **named)
            with self._hook.door.guarded():
                if self._known and is_measured_here():
                    known, self._known = self._known, None
                    self._after(known)
            return done

        return update


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
            inner = updating(optimizer)
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
            gradients, given = list(grads), trainable_variables
            given = None if given is None else list(given)
            variables, unknown, proceed = given, [], True
            with hook.door.guarded():
                variables, gradients, unknown = self._known(gradients, given)
                proceed = all(
                    [
                        watcher.see_gradients(variables, gradients)
                        for watcher in list(hook.watchers)
                    ]
                )
                if not tf.executing_eagerly() and not is_examining():
                    graph = tf.compat.v1.get_default_graph()
                    hook.graph = weakref.ref(graph)
            if not proceed:
                return None

            def make():
                return original(gradients, None if given is None else variables)

            try:
                return self._measured(variables, gradients, make)
            except ValueError as error:
                with hook.door.guarded():
                    for watcher in hook.watchers:
                        watcher.see_apply_error(error, variables, unknown)
                raise

        return apply

    def _known(self, gradients, given):
        """What an update is made of, and the variables that are unknown.

        Args:
            gradients: The gradients.
            given: The variables that `apply` was given, or `None`.

        Returns:
            `(variables, gradients, unknown)`.
        """
        variables = given
        if variables is None:
            variables = list(variables_of(self._optimizer))
        unknown = unknown_to(self._optimizer, variables)
        if unknown and self._hook.is_stale:
            # As the step that is at hand already: it knows none of them.
            gradients, variables = without(unknown, gradients, variables)
        return variables, gradients, unknown

    def _measured(self, variables, gradients, make):
        """Makes an update, and measures its gradients and its effect."""
        hook, known = self._hook, None
        with hook.door.guarded():
            if hook.num_replicas == 1:
                known = self._before(variables, gradients)
            elif variables and is_measured_here():
                # Those of one replica are not those of the step.
                self._summed.applied = self._optimizer, variables
        done = self._made(known, make)
        with hook.door.guarded():
            if known and hook.door.is_open:
                hook.probe.after_apply(known)
        return done

    def _before(self, variables, gradients):
        """Measures gradients; returns what `Probe` is to know of them."""
        hook = self._hook
        if variables and hook.is_probed():
            hook.first_trace.build(self._optimizer, variables)
        if variables and hook.is_probed():
            return hook.probe.before_apply(
                self._optimizer, variables, gradients
            )
        return None

    def _made(self, known, make):
        """Makes an update, or leaves it out; a fault lets it be made."""
        hook = self._hook
        if known is None or not hook.probe.withholds:
            return make()
        apply = functools.partial(hook.probe.apply, known)
        return made_once(hook.door, apply, make)
