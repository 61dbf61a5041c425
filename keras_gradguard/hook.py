"""Step 1 of 5: hook the training step of one model, and undo it.

Only instances are touched, and only for one step at a time:
`model.train_function`, `optimizer.apply` and `optimizer.scale_loss`.
"""

import contextlib
import functools
import weakref

import tensorflow as tf

from keras_gradguard import at_hand
from keras_gradguard.armed import take_back_later
from keras_gradguard.batch import packed, spec_of
from keras_gradguard.diagnosis import keras_internals
from keras_gradguard.diagnosis.trace import is_examining, optimizers_of
from keras_gradguard.door import Door
from keras_gradguard.logs import Logs
from keras_gradguard.patch import replaced
from keras_gradguard.probe import CHANNEL, NORM, Probe
from keras_gradguard.running import running

_hooks = weakref.WeakKeyDictionary()


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

    A watcher has `withhold`, see `Probe`; `see_gradients(variables,
    gradients)`, which returns whether the update is applied;
    `see_apply_error(error, variables, unknown)` for a ValueError of the
    optimizer; `see_step_error(error)` for an exception inside a step;
    `see_failure(error)` for one that leaves the train function; `finish()`.

    Args:
        model: A compiled Keras model whose `train_function` is made.
    """

    def __init__(self, model):
        self.model = model
        self.watchers = []
        self.probe = None
        self.data = None
        self.channel = None
        self.graph = None
        self.has_run = False
        self._fit = None
        self._is_stale = at_hand.has_run(model)
        self._as_traced = at_hand.changed_since(model) if self._is_stale else []
        self._guarded_step = self._guard(model.train_step)
        self._make_guarded()
        self._door = Door()
        self._hooks = [
            hook
            for optimizer in optimizers_of(model)
            for hook in (
                (optimizer, "apply", self._hooked_apply(optimizer)),
                (optimizer, "scale_loss", self._hooked_scale(optimizer)),
            )
        ]

    def _make_guarded(self):
        self._is_built, plain = self.model.built, self.model.train_function
        try:
            with replaced(self.model, "train_step", self._guarded_step):
                self.model.make_train_function(force=True)
            self._guarded = self.model.train_function
        finally:
            self.model.train_function = plain

    def undo(self, watcher):
        """Takes a watcher away, and with the last one the hook."""
        if watcher in self.watchers:
            self.watchers.remove(watcher)
        if not self.watchers and _hooks.get(self.model) is self:
            del _hooks[self.model]

    def guard_next(self, is_due=False):
        """Puts the guarded train function in place for one call.

        Args:
            is_due: Whether its numbers are to be recorded.
        """
        if self.probe is None:
            held = {watcher.withhold for watcher in self.watchers}
            known = [h for h in ("bad", "after") if h in held]
            self.probe = Probe(self.model, *known[:1])
        elif self.probe.withhold and self.model.built and not self._is_built:
            # The first trace knew nothing of the statistics of layers.
            self._make_guarded()
        names = vars(self.model)
        is_first = names["train_function"] != self._run
        # Another watcher may have asked for a record of this call.
        self.probe.expect(is_due or (not is_first and self.probe.is_due))
        if is_first:
            self._plain = names["train_function"]
            names["train_function"] = self._run
            if self._fit is None or self._fit() is None:
                self._fit = take_back_later(self)

    def take_back(self):
        """Puts the plain train function back if the guarded one is there."""
        if vars(self.model)["train_function"] == self._run:
            vars(self.model)["train_function"] = self._plain

    def _run(self, iterator):
        """Runs one guarded call; the model is as before when it ends."""
        self.take_back()
        self.has_run = True
        at_hand.note_run(self._plain)
        try:
            with running(self), self._hooked():
                logs = self._guarded(iterator)
            self.channel = None
            if isinstance(logs, dict):
                self.channel = logs.pop(CHANNEL, None)
                logs = Logs(self.model, logs, NORM)
            return logs
        except (StopIteration, tf.errors.OutOfRangeError):
            raise
        except BaseException as error:
            for watcher in list(self.watchers):
                watcher.see_failure(error)
            raise

    def _guard(self, step):
        @functools.wraps(step)
        def train_step(data):
            self.data = spec_of(data)
            with self._door.guarded():
                if self._is_probed():
                    self.probe.begin(data)
            try:
                logs = step(data)
            except Exception as error:
                for watcher in self.watchers:
                    watcher.see_step_error(error)
                raise
            with self._door.guarded():
                logs = self.probe.end(logs) if self._is_probed() else logs
            return logs

        return train_step

    def _is_probed(self):
        # The statistics of one replica are not those of the step.
        if not self._door.is_open or is_examining():
            return False
        replica = tf.distribute.get_replica_context()
        return replica is None or replica.num_replicas_in_sync == 1

    @contextlib.contextmanager
    def _hooked(self):
        with contextlib.ExitStack() as stack:
            # Older Keras looks `train_step` up only when it traces.
            step = replaced(self.model, "train_step", self._guarded_step)
            stack.enter_context(step)
            for hook in (*self._as_traced, *self._hooks):
                stack.enter_context(replaced(*hook))
            yield

    def _hooked_scale(self, optimizer):
        original = optimizer.scale_loss

        @functools.wraps(original)
        def scale_loss(loss):
            with self._door.guarded():
                if self._is_probed():
                    self.probe.see_loss(loss)
            return original(loss)

        return scale_loss

    def _hooked_apply(self, optimizer):
        original = optimizer.apply

        @functools.wraps(original)
        def apply(grads, trainable_variables=None):
            gradients = list(grads)
            variables = trainable_variables
            if variables is None:
                variables = keras_internals.variables_of(optimizer)
            variables = list(variables)
            unknown = keras_internals.unknown_to(optimizer, variables)
            if unknown and self._is_stale:
                # As the step that is at hand already: it knows none of them.
                gradients, variables = at_hand.without(
                    unknown, gradients, variables
                )
            proceed = [
                watcher.see_gradients(variables, gradients)
                for watcher in list(self.watchers)
            ]
            if not all(proceed):
                return None
            known = None
            if not tf.executing_eagerly() and not is_examining():
                graph = tf.compat.v1.get_default_graph()
                self.graph = weakref.ref(graph)
            with self._door.guarded():
                if self._is_probed() and variables:
                    known = self.probe.before_apply(
                        optimizer, variables, gradients
                    )

            def make():
                return original(gradients, trainable_variables and variables)

            try:
                done = self.probe.apply(known, make) if known else make()
            except ValueError as error:
                for watcher in self.watchers:
                    watcher.see_apply_error(error, variables, unknown)
                raise
            with self._door.guarded():
                if known:
                    self.probe.after_apply(known)
            return done

        return apply

    def latch(self):
        """Returns `Probe.read_latch`, `None` where nothing was measured."""
        if self.channel is not None:
            return self.channel[0].numpy()
        return None if self.probe is None else self.probe.read_latch()

    def batch(self):
        """Returns the last batch as the step got it, `None` if not kept."""
        if self.channel is None:
            return None
        return packed(self.data, self.channel[1])
