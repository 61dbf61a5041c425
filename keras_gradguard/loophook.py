"""Step 1 of 5: hook the optimizers that train a model in a custom loop.

Only `optimizer.apply` of each instance is replaced, while the block runs.
"""

import collections
import contextlib
import functools
import gc
import threading

import keras

from keras_gradguard.diagnosis import keras_internals
from keras_gradguard.diagnosis.trace import is_examining, optimizers_of
from keras_gradguard.door import Door
from keras_gradguard.loopprobe import LoopProbe
from keras_gradguard.patch import replaced
from keras_gradguard.replicas import is_measured_here, num_replicas
from keras_gradguard.summed import SummedHook


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
        door: The `Door` at which a fault of all this is caught.
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
        self.door = Door()
        self._own = {}
        self._thread = threading.local()
        # By optimizer: updates under way that another one makes by it.
        self._within = collections.Counter()

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
        inner = keras_internals.updating(optimizer)
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
        is_on = self.door.is_open and not is_examining()
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
        """Returns `Latch.read`."""
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
            is_inner = getattr(self._thread, "is_applying", False)
            is_inner = is_inner or self._within[id(optimizer)]
            if is_inner or is_examining() or not self.door.is_open:
                return original(gradients, given)
            variables = given
            if variables is None:
                if not optimizer.built:
                    return original(gradients, given)
                variables = list(keras_internals.variables_of(optimizer))
            own = {}
            with self.door.guarded():
                own = self._own_of(variables[: len(gradients)])
            if not own:
                return original(gradients, given)
            self._thread.is_applying = True
            inner = keras_internals.updating(optimizer)
            # A loss scale calls it in other threads where replicas train.
            self._within[id(inner)] += inner is not optimizer
            try:
                with self.pause():
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

    def _apply(self, optimizer, make, variables, gradients, own):
        if all(optimizer is not known for known in self.optimizers):
            self.optimizers.append(optimizer)
        unknown = keras_internals.unknown_to(optimizer, variables)
        is_refused = all(gradient is None for gradient in gradients)
        mine, theirs = list(own.values()), [gradients[n] for n in own]
        for watcher in self.watchers:
            watcher.see_gradients(mine, theirs, is_refused)
        known = None
        with self.door.guarded():
            if self.num_replicas > 1:
                # The gradients of one replica are not those of the step.
                inner = keras_internals.updating(optimizer)
                self._summed[id(inner)].applied = optimizer, mine
            elif self.door.is_open and not unknown and not is_refused:
                if self.probe.withhold is not None and not optimizer.built:
                    optimizer.build(variables)
                known = self.probe.before_apply(optimizer, mine, theirs)
        try:
            done = self.probe.apply(known, make) if known else make()
        except ValueError as error:
            for watcher in self.watchers:
                watcher.see_apply_error(error, mine, unknown)
            raise
        with self.door.guarded():
            if known:
                self.probe.after_apply(known)
        for watcher in self.watchers:
            watcher.see_update(optimizer, mine)
        return done
