"""Hooks one optimizer, where the gradients of a step pass."""

import functools

from keras_gradguard.backend.tensorflow.capture.bad_step import made_once
from keras_gradguard.backend.tensorflow.hook.running import is_measured_here
from keras_gradguard.backend.tensorflow.hook.train_function import without
from keras_gradguard.model.optimizers import (
    REDUCE,
    UPDATE,
    applied_variables,
    unknown_to,
    updating,
)


class SummedHook:
    """Measures the updates that several replicas make together.

    A loss scale goes on in threads of its own behind `apply`, so that what is
    known of an update stands here, and not with its thread.

    Args:
        hook: Has `barrier`, `probe` and `is_probed()`.
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
            with self._hook.barrier.guarded():
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
            with self._hook.barrier.guarded():
                if self._known and is_measured_here():
                    known, self._known = self._known, None
                    self._after(known)
            return done

        return update


class OptimizerHook:
    """Shows the gradients of one optimizer to the watchers of a step.

    Args:
        step: The `GuardedStep`.
        optimizer: The optimizer, the outermost if it wraps another.

    Attributes:
        patches: `(instance, name, value)`s that put it in place.
    """

    def __init__(self, step, optimizer):
        self._step = step
        self._optimizer = optimizer
        self._summed = None
        self.patches = [
            (optimizer, "apply", self._hooked_apply()),
            (optimizer, "scale_loss", self._hooked_scale()),
        ]
        if step.num_replicas > 1:
            inner = updating(optimizer)
            self._summed = SummedHook(
                step, inner, lambda known: step.probe.after_apply(known)
            )
            self.patches += self._summed.patches

    def _hooked_scale(self):
        original = self._optimizer.scale_loss

        @functools.wraps(original)
        def scale_loss(loss):
            with self._step.barrier.guarded():
                if self._step.is_probed():
                    self._step.probe.see_loss(loss)
            return original(loss)

        return scale_loss

    def _hooked_apply(self):
        step, original = self._step, self._optimizer.apply

        @functools.wraps(original)
        def apply(grads, trainable_variables=None):
            gradients, given = list(grads), trainable_variables
            given = None if given is None else list(given)
            variables, unknown, proceed = given, [], True
            with step.barrier.guarded():
                variables, gradients, unknown = self._known(gradients, given)
                proceed = step.show_gradients(variables, gradients)
                step.see_graph()
            if not proceed:
                return None

            def make():
                return original(gradients, None if given is None else variables)

            try:
                return self._measured(variables, gradients, make)
            except ValueError as error:
                with step.barrier.guarded():
                    step.show_error(
                        "see_apply_error", error, variables, unknown
                    )
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
        variables = applied_variables(self._optimizer, given)
        unknown = unknown_to(self._optimizer, variables)
        if unknown and self._step.is_stale:
            # As the step that is at hand already: it knows none of them.
            gradients, variables = without(unknown, gradients, variables)
        return variables, gradients, unknown

    def _measured(self, variables, gradients, make):
        """Makes an update, and measures its gradients and its effect."""
        step, known = self._step, None
        with step.barrier.guarded():
            if step.num_replicas == 1:
                known = self._before(variables, gradients)
            elif variables and is_measured_here():
                # Those of one replica are not those of the step.
                self._summed.applied = self._optimizer, variables
        done = self._made(known, make)
        with step.barrier.guarded():
            if known and step.barrier.is_open:
                step.probe.after_apply(known)
        return done

    def _before(self, variables, gradients):
        """Measures gradients; returns what `Probe` is to know of them."""
        step = self._step
        if variables and step.is_probed():
            step.first_trace.build(self._optimizer, variables)
        if variables and step.is_probed():
            return step.probe.before_apply(
                self._optimizer, variables, gradients
            )
        return None

    def _made(self, known, make):
        """Makes an update, or leaves it out; a fault lets it be made."""
        step = self._step
        if known is None or not step.probe.withholds:
            return make()
        apply = functools.partial(step.probe.apply, known)
        return made_once(step.barrier, apply, make)
