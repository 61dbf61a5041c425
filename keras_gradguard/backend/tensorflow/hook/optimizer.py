"""Hooks one optimizer, where the gradients of a step pass."""

import dataclasses
import functools

from keras_gradguard.backend.tensorflow.capture.bad_step import made_once
from keras_gradguard.backend.tensorflow.hook.running import is_measured_here
from keras_gradguard.model.optimizers import REDUCE, UPDATE


@dataclasses.dataclass(frozen=True)
class Update:
    """One call of `optimizer.apply`.

    Args:
        optimizer: The optimizer.
        gradients: The gradients it is made of.
        variables: Their variables.
        own_variables: Those of them that are checked and measured.
        own_gradients: The gradients of those.
        unknown: Variables that the optimizer does not know.
    """

    optimizer: object
    gradients: list
    variables: list
    own_variables: list
    own_gradients: list
    unknown: list

    @property
    def is_refused(self):
        """Whether the optimizer raises, having no gradient at all."""
        return all(gradient is None for gradient in self.gradients)


class SummedHook:
    """Measures the updates that several replicas make together.

    A loss scale goes on in threads of its own behind `apply`, so that what is
    known of an update stands here, and not with its thread.

    Args:
        hook: See `OptimizerHook`.
        optimizer: The optimizer that makes them, the innermost one.

    Attributes:
        applied: `(optimizer, variables)` of the update to come, with the
            outermost optimizer.
        patches: `(instance, name, value)`s that put it in place.
    """

    def __init__(self, hook, optimizer):
        self._hook = hook
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
                    self._hook.probe.after_apply(known)
            return done

        return update


class OptimizerHook:
    """Shows the updates of one optimizer, and measures them.

    Args:
        hook: Has `barrier`, `probe`, `num_replicas` and
            `update_of(optimizer, gradients, given)`, which returns an
            `Update`, or `None` for a call that is left alone; the variables
            given may be `None`;
            `applying(update)`, a context in which it is made;
            `show_gradients(update)`, which returns whether it is made;
            `is_measured(update)` and `is_probed()`;
            `note_update(update)`, once it was made;
            `show_error(method, *given)`.
        optimizer: The optimizer, the outermost if it wraps another.
        summed: The `SummedHook` of the innermost one, where several replicas
            train.

    Attributes:
        patches: `(instance, name, value)`s that put it in place.
    """

    def __init__(self, hook, optimizer, summed=None):
        self._hook = hook
        self._optimizer = optimizer
        self._summed = summed
        self.patches = [(optimizer, "apply", self._hooked_apply())]

    def _hooked_apply(self):
        hook, original = self._hook, self._optimizer.apply

        @functools.wraps(original)
        def apply(grads, trainable_variables=None):
            gradients, given = list(grads), trainable_variables
            given = None if given is None else list(given)
            update = None
            with hook.barrier.guarded():
                update = hook.update_of(self._optimizer, gradients, given)
            if update is None:
                return original(gradients, given)

            variables = None if given is None else update.variables
            return hook.barrier.wrapped(
                functools.partial(self._applied, update),
                original,
                update.gradients,
                variables,
            )

        return apply

    def _applied(self, update, call, *arguments):
        """Makes an update that no other one stands around."""
        with self._hook.applying(update):
            return self._shown(update, functools.partial(call, *arguments))

    def _shown(self, update, make):
        """Makes an update; its gradients and its effect are measured."""
        hook, known, proceed = self._hook, None, True
        with hook.barrier.guarded():
            proceed = hook.show_gradients(update)
        if not proceed:
            return None
        with hook.barrier.guarded():
            known = self._before(update)
        try:
            done = self._made(known, make)
        except ValueError as error:
            with hook.barrier.guarded():
                hook.show_error(
                    "explain_apply_error",
                    error,
                    update.own_variables,
                    update.unknown,
                )
            raise
        with hook.barrier.guarded():
            if known and hook.barrier.is_open:
                hook.probe.after_apply(known)
        with hook.barrier.guarded():
            hook.note_update(update)
        return done

    def _before(self, update):
        """Measures gradients; returns what `Probe` is to know of them."""
        hook, variables = self._hook, update.own_variables
        if self._summed is None:
            if hook.is_measured(update):
                return hook.probe.before_apply(
                    update.optimizer, variables, update.own_gradients
                )
        elif variables and is_measured_here():
            # Those of one replica are not those of the step.
            self._summed.applied = update.optimizer, variables
        return None

    def _made(self, known, make):
        """Makes an update, or leaves it out; a fault lets it be made."""
        hook = self._hook
        if known is None or not hook.probe.withholds:
            return make()
        apply = functools.partial(hook.probe.apply, known)
        return made_once(hook.barrier, apply, make)


def scale_patch(step, optimizer):
    """Returns the patch that shows `step.probe` the loss of a step.

    Args:
        step: Has `barrier`, `probe` and `is_probed()`.
        optimizer: An optimizer; Keras asks it to scale the loss.
    """
    original = optimizer.scale_loss

    @functools.wraps(original)
    def scale_loss(loss):
        with step.barrier.guarded():
            step.before_scaling(optimizer)
            if step.is_probed():
                step.probe.mark_loss(loss)
        return original(loss)

    return optimizer, "scale_loss", scale_loss
