"""Hooks the optimizers that train a model in a custom loop.

Only `optimizer.apply` of each instance is replaced, while the block runs.
"""

import collections
import contextlib
import functools
import gc
import threading

import keras

from keras_gradguard.backend.tensorflow.capture.bad_step import made_once
from keras_gradguard.backend.tensorflow.capture.probe import LoopProbe
from keras_gradguard.backend.tensorflow.hook.optimizer import SummedHook
from keras_gradguard.backend.tensorflow.hook.running import (
    is_measured_here,
    num_replicas,
)
from keras_gradguard.backend.tensorflow.internals.patch import replaced
from keras_gradguard.backend.tensorflow.tracing.restore import is_examining
from keras_gradguard.errors import FaultBarrier, counted, fault_sentence
from keras_gradguard.model.optimizers import (
    applied_variables,
    optimizers_of,
    unknown_to,
    updating,
)


class FirstStep:
    """Follows updates until a step must be done.

    One update does for a loop with one optimizer; with several, a step is
    over once each variable has been trained, or an optimizer comes again.

    Args:
        model: The Keras model.
    """

    def __init__(self, model):
        self._model = model
        self._begin()
        self._is_running_out = False

    def _begin(self):
        self._trained, self._optimizers = set(), set()
        self._num_updates, self._num_known = 0, 0

    def begin_with_the_next(self):
        """Begins anew, with the step after the one that runs."""
        self._is_running_out = True

    def see_update(self, optimizer, variables):
        """Takes note of an update; returns whether the step is over.

        Args:
            optimizer: The optimizer that made it.
            variables: The model's variables among those it trains.
        """
        if self._is_running_out:
            self._is_running_out = False
            self._begin()
            return False
        self._num_updates += 1
        self._trained |= set(map(id, variables))
        is_again = id(optimizer) in self._optimizers
        self._optimizers.add(id(optimizer))
        return is_again or self._is_complete()

    def see_function(self):
        """Takes note that a compiled function has returned.

        Returns:
            Whether the step is over: all is trained, or the function has
            not been traced again.
        """
        is_traced = self._num_updates > self._num_known
        self._num_known = self._num_updates
        return self._is_complete() or (
            bool(self._num_updates) and not is_traced
        )

    def _is_complete(self):
        everything = set(map(id, self._model.trainable_variables))
        return everything <= self._trained


def live_optimizers(model):
    """Returns the optimizers that may train a model.

    Args:
        model: A Keras model. The optimizers that it holds, and all others
            that are alive, as a loop may hold its own in any variable.
    """
    found = {id(optimizer): optimizer for optimizer in optimizers_of(model)}
    for value in gc.get_objects():
        # Asking for `__class__` would wake up lazy modules and proxies.
        if issubclass(type(value), keras.optimizers.Optimizer):
            found[id(value)] = value
    return list(found.values())


class LoopHook:
    """Shows the updates of one model's variables to a watcher.

    A watcher has `see_gradients(variables, gradients, is_refused)`, which
    may raise; `see_apply_error(error, variables, unknown)`;
    `see_update(optimizer, variables)` once an update has been made.

    Args:
        model: The Keras model.
        every: Updates between two records.
        withhold: See `Probe`; with several replicas every update is made.
        optimizers: A list for those that have trained the model.

    Attributes:
        probe: The `LoopProbe`.
        num_replicas: How many replicas train.
        optimizers: Those that have trained a variable of the model.
        watchers: The watcher, once it is there.
        pause: Makes a context in which nobody looks at what runs.
        barrier: The `FaultBarrier` at which a fault of all this is caught.
        not_checked: A list of what is to be said of faults, see `Report`.
    """

    def __init__(self, model, every, withhold, optimizers):
        self.model = model
        self.num_replicas = num_replicas(model)
        # A conditional must not hold what the replicas do together.
        withhold = None if self.num_replicas > 1 else withhold
        self.probe = LoopProbe(every, withhold)
        self.optimizers = optimizers
        self.watchers = []
        self.pause = contextlib.nullcontext
        self.graph = None
        self._hooked, self._summed = {}, {}
        self._stack = contextlib.ExitStack()
        self.barrier = FaultBarrier(self._see_fault)
        self.not_checked = []
        self._own = {}
        self._thread = threading.local()
        # By optimizer: updates under way that another one makes by it.
        self._within = collections.Counter()
        self._num_updates = 0
        self.is_drawn_elsewhere = False

    def _see_fault(self, reason):
        when = "before the first update"
        if self._num_updates:
            when = f"after {counted(self._num_updates, 'update')}"
        self.not_checked.append(fault_sentence(when, reason))
        with self.barrier.guarded():
            self.probe.switch_off()

    @property
    def answers(self):
        """Nothing: each look at a loop is asked anew."""
        return {}

    def data_here(self):
        """Returns `None`: a loop does not show where its batch is."""

    def add(self, optimizer):
        """Hooks one optimizer, the outermost where one is inside another."""
        if id(optimizer) in self._hooked:
            return
        self._hooked[id(optimizer)] = optimizer
        patches = [(optimizer, "apply", self._hooked_apply(optimizer))]
        inner = updating(optimizer)
        if self.num_replicas > 1 and id(inner) not in self._summed:
            summed = SummedHook(self, inner, self._after_sum)
            self._summed[id(inner)] = summed
            patches += summed.patches
        for patch in patches:
            self._stack.enter_context(replaced(*patch))

    def undo(self):
        """Leaves all optimizers as they were; compiled steps run on."""
        self._stack.close()
        self._hooked.clear()
        self._summed.clear()
        self.probe.switch_off()

    def is_probed(self):
        """Returns whether the update that is made here is measured."""
        is_on = self.barrier.is_open and not is_examining()
        return is_on and is_measured_here()

    def _after_sum(self, known):
        # The optimizer counts the update a moment later.
        self.probe.after_apply(known, uncounted=1)

    @property
    def num_steps(self):
        """How many updates have been seen of the busiest optimizer."""
        captures = self.probe.captures
        return max((c.num_steps for c in captures), default=0)

    def latch(self):
        """Returns `FirstBadStep.read`."""
        return self.probe.latch.read()

    def batch(self):
        """Returns `None`: the batch of a loop is not known."""

    def _own_of(self, variables):
        """The model's variables among some, by their place there."""
        found = self._look_up(variables)
        if len(found) < len(variables):
            # The model may have been built in the meantime.
            self._own = {}
            for variable in self.model.trainable_variables:
                self._own[id(variable)] = variable
                self._own[id(variable.value)] = variable
            found = self._look_up(variables)
        return found

    def _look_up(self, variables):
        return {
            number: self._own[id(variable)]
            for number, variable in enumerate(variables)
            if id(variable) in self._own
        }

    def _hooked_apply(self, optimizer):
        original = optimizer.apply

        @functools.wraps(original)
        def apply(grads, trainable_variables=None):
            gradients, given = list(grads), trainable_variables
            given = None if given is None else list(given)
            variables, own, inner = given, {}, optimizer
            with self.barrier.guarded():
                if self._is_watched(optimizer):
                    variables, own = self._known(optimizer, gradients, given)
                    inner = updating(optimizer)
            if not own:
                return original(gradients, given)
            self._thread.is_applying = True
            # A loss scale calls it in other threads where replicas train.
            self._within[id(inner)] += inner is not optimizer
            try:
                with self.barrier.around(self.pause()):
                    return self._apply(
                        optimizer,
                        lambda: original(gradients, given),
                        variables,
                        gradients,
                        own,
                    )
            finally:
                self._thread.is_applying = False
                self._within[id(inner)] -= inner is not optimizer

        return apply

    def _is_watched(self, optimizer):
        """Whether a call of `apply` is an update of its own."""
        is_inner = getattr(self._thread, "is_applying", False)
        is_inner = is_inner or self._within[id(optimizer)]
        return self.barrier.is_open and not is_inner and not is_examining()

    def _known(self, optimizer, gradients, given):
        """The variables of an update, and the model's among them.

        Args:
            optimizer: The optimizer.
            gradients: The gradients.
            given: The variables that `apply` was given, or `None`.

        Returns:
            `(variables, own)`, see `_own_of`.
        """
        if given is None:
            if not optimizer.built:
                return given, {}
            given = applied_variables(optimizer, given)
        return given, self._own_of(given[: len(gradients)])

    def _apply(self, optimizer, make, variables, gradients, own):
        known, unknown = None, []
        mine, theirs = list(own.values()), [gradients[n] for n in own]
        with self.barrier.guarded():
            if all(optimizer is not other for other in self.optimizers):
                self.optimizers.append(optimizer)
            unknown = unknown_to(optimizer, variables)
            is_refused = all(gradient is None for gradient in gradients)
            for watcher in self.watchers:
                watcher.see_gradients(mine, theirs, is_refused)
            if self.num_replicas > 1:
                # The gradients of one replica are not those of the step.
                inner = updating(optimizer)
                self._summed[id(inner)].applied = optimizer, mine
            elif self.barrier.is_open and not unknown and not is_refused:
                if self.probe.withhold is not None and not optimizer.built:
                    optimizer.build(variables)
                known = self.probe.before_apply(optimizer, mine, theirs)
        try:
            if known is None or self.probe.withhold is None:
                done = make()
            else:
                apply = functools.partial(self.probe.apply, known)
                done = made_once(self.barrier, apply, make)
        except ValueError as error:
            with self.barrier.guarded():
                for watcher in self.watchers:
                    watcher.see_apply_error(error, mine, unknown)
            raise
        with self.barrier.guarded():
            if known and self.barrier.is_open:
                self.probe.after_apply(known)
            for watcher in self.watchers:
                watcher.see_update(optimizer, mine)
        self._num_updates += 1
        return done
