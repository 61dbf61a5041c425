"""Step 1 of 5: hook an update, where the replicas add up its gradients."""

import functools

from keras_gradguard.diagnosis import keras_internals
from keras_gradguard.replicas import is_measured_here


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
                (keras_internals.REDUCE, self._hooked_reduce),
                (keras_internals.UPDATE, self._hooked_update),
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
