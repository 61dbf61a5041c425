"""The training step of one model with the guard in its graph.

Keras traces a step once and runs it in every `fit` until the next `compile`.
So does the guard. What belongs to one `fit` alone is in its `FitHook`, which
the traced code finds in `GuardedStep.training`. Keras drops its train function
with the model, and in each `compile`. The step is to go with it; a table of
steps would hold them, and by them the models, for good. So it is an attribute
of that function.
"""

import contextlib
import functools
import types
import weakref

import tensorflow as tf

from keras_gradguard.backend.tensorflow.capture.probe import Probe
from keras_gradguard.backend.tensorflow.hook.first_trace import FirstTrace
from keras_gradguard.backend.tensorflow.hook.optimizer import (
    OptimizerHook,
    SummedHook,
    Update,
    scale_patch,
)
from keras_gradguard.backend.tensorflow.hook.running import (
    is_measured_here,
    num_replicas,
)
from keras_gradguard.backend.tensorflow.hook.train_function import (
    OwnStep,
    changed_since,
    holds_its_step,
    is_run_as,
    is_traced,
    made_anew,
    without,
)
from keras_gradguard.backend.tensorflow.internals.batches import spec_of
from keras_gradguard.backend.tensorflow.internals.graphs import runtime_here
from keras_gradguard.backend.tensorflow.internals.patch import Replacement
from keras_gradguard.backend.tensorflow.tracing.restore import is_examining
from keras_gradguard.model.layers import (
    functions_of,
    is_default_step,
    layers_of,
    own_weights,
    runs_eagerly,
)
from keras_gradguard.model.optimizers import (
    applied_variables,
    optimizers_of,
    unknown_to,
    updating,
)

_NOTHING = contextlib.nullcontext()


class Traced:
    """What the traces of a step for one kind of batch have shown.

    Attributes:
        data: The batch with the shape and dtype of each part for its values.
        graph: Weak reference to the graph of the last update, `None` before
            it and where the step runs eagerly.
        shown: Functions that show the monitors what they saw in the traces.
        answers: See `Step.answers`.
    """

    def __init__(self):
        self.data = self.graph = None
        self.shown, self.answers = [], {}


class GuardedStep:
    """The step of one model, guarded, for one training after the other.

    Args:
        model: A compiled Keras model whose `train_function` is made.
        modes: `(withhold, has_histograms)`, see `Probe`.

    Attributes:
        model: The model.
        modes: The modes.
        training: The `FitHook` of the training that it runs in, else `None`.
        barrier: The `FaultBarrier` of the last one that it was given to.
        num_replicas: How many replicas train the model.
        is_stale: Whether Keras has traced its own step before this one.
        is_sound: Whether nothing has failed in its trace.
        runs_compiled: Whether Python runs it in a trace alone, wherever that
            begins.
        is_partial: Whether its trace leaves bad steps out, and knew nothing
            of the statistics of layers: the model was not built.
        first_trace: Its `FirstTrace`.
        probe: Its `Probe`.
        traced: The `Traced` of the batches of this training.
        function: The train function.
        hooked: Context that the function is called in.
    """

    def __init__(self, model, modes):
        self.model, self.modes = model, modes
        self.training = self.barrier = None
        self.num_replicas = num_replicas(model)
        self.is_stale = is_traced(model)
        self.is_sound = True
        self._own_step = self._values = None
        if not is_default_step(model):
            self._own_step = OwnStep(lambda: self._is_due, self)
        self.first_trace = FirstTrace(model, self.num_replicas == 1, self)
        self._guarded_step = self._guard(model.train_step)
        self._make()
        # Older Keras looks `train_step` up only when it traces.
        self.hooked = Replacement(
            [
                (model, "train_step", self._guarded_step),
                *(changed_since(model) if self.is_stale else ()),
                *self.first_trace.patches,
                *(
                    patch
                    for optimizer in optimizers_of(model)
                    for patch in self._patches_of(optimizer)
                ),
            ]
        )
        self.probe = Probe(model, self.num_replicas, *modes)
        self.is_partial = self.probe.withholds and not model.built

    def _patches_of(self, optimizer):
        if self.num_replicas == 1:
            return [
                *OptimizerHook(self, optimizer).patches,
                scale_patch(self, optimizer),
            ]
        summed = SummedHook(self, updating(optimizer))
        hooked = OptimizerHook(self, optimizer, summed)
        scaled = scale_patch(self, optimizer)
        return [*hooked.patches, scaled, *summed.patches]

    def _make(self):
        # `(what `note_run` returned, its `Traced`)`s.
        self._traces, self.traced = [], Traced()
        self.function = made_anew(self.model, self._guarded_step)
        self.runs_compiled = self.num_replicas == 1 and holds_its_step(
            self.model, self.function
        )

    def make_whole(self):
        """Makes the function of a partial step anew once the model is built."""
        if self.model.built:
            begun = [spec for spec, t in self._traces if t is self.traced]
            self._make()
            self.is_partial = False
            for spec in begun:
                self.begin(spec)

    def runs_as(self, spec):
        """Returns whether a batch finds the trace that Keras would run.

        Args:
            spec: What `note_run` has returned.
        """
        known = [known for known, _ in self._traces]
        if not known or spec in known:
            return True
        plain = self.model.train_function
        return is_run_as(self.function, spec, plain)

    def begin(self, spec):
        """Takes the first batch of a training, before it runs.

        Args:
            spec: What `note_run` has returned.
        """
        found = [traced for known, traced in self._traces if known == spec]
        if found:
            (self.traced,) = found
        else:
            self.traced = Traced()
            self._traces.append((spec, self.traced))

    @property
    def _is_due(self):
        return self.probe.is_due

    def show(self, show):
        """Shows the monitors what a trace has found, and notes it.

        Args:
            show: Shows it; called once more in each later training.

        Returns:
            What it returns.
        """
        if not (tf.executing_eagerly() or is_examining()):
            self.traced.shown.append(show)
        return show()

    def show_again(self):
        """Shows the monitors what they would see in a trace."""
        for show in self.traced.shown:
            show()

    def update_of(self, optimizer, gradients, given):
        """See `OptimizerHook`."""
        variables = applied_variables(optimizer, given)
        unknown = unknown_to(optimizer, variables)
        if unknown and self.is_stale:
            # The step that Keras has traced before knows none of them.
            gradients, variables = without(unknown, gradients, variables)
        return Update(
            optimizer, gradients, variables, variables, gradients, unknown
        )

    def applying(self, update):
        """See `OptimizerHook`."""
        return contextlib.nullcontext()

    def show_gradients(self, update):
        """Shows the gradients of an update to the monitors.

        Args:
            update: The `Update`.

        Returns:
            Whether the update is to be made.
        """
        variables, is_refused = update.variables, update.is_refused
        # The tensors themselves would keep a draft of the graph.
        there = [None if g is None else True for g in update.gradients]

        def show():
            return [
                monitor.check_gradients(variables, there, is_refused)
                for monitor in list(self.training.monitors)
            ]

        proceed = all(self.show(show))
        # Without its update the step is none to be kept.
        self.is_sound &= proceed
        self._note_graph()
        return proceed

    def _note_graph(self):
        if not tf.executing_eagerly() and not is_examining():
            graph = tf.compat.v1.get_default_graph()
            self.traced.graph = weakref.ref(graph)

    def is_measured(self, update):
        """Returns whether an update is measured; builds its optimizer."""
        variables = update.variables
        if not variables or update.is_refused:
            return False
        if self.is_probed():
            self.first_trace.build(update.optimizer, variables)
        return self.is_probed()

    def before_scaling(self, optimizer):
        """Builds an optimizer that is about to scale a loss in a trace.

        Args:
            optimizer: The optimizer.
        """
        if self.barrier.is_open:
            self.first_trace.before_scaling(optimizer)

    def note_update(self, update):
        """Does nothing: `fit` says itself when a step is over."""

    def show_error(self, method, *given):
        """Shows the monitors an exception in the step.

        Args:
            method: Name of the method of a monitor that takes it.
            given: What the method takes.
        """
        self.is_sound = False
        for monitor in list(self.training.monitors):
            getattr(monitor, method)(*given)

    def _guard(self, step):
        @functools.wraps(step)
        def train_step(data):
            before = self._values
            with self.barrier.guarded():
                if self.barrier.is_open:
                    self.traced.data, self._values = spec_of(data), data
                    self.first_trace.begin(not self.probe.withholds)
                    if self.is_probed():
                        self.probe.begin(data)
            around = _NOTHING
            with self.barrier.guarded():
                around = self.barrier.around(self.training.around())
            try:
                with around:
                    if self._own_step is None:
                        logs = step(data)
                    else:
                        own = self._own_step.run
                        logs = self.barrier.wrapped(own, step, data)
            except Exception as error:
                with self.barrier.guarded():
                    # A look may end where the step itself goes on.
                    if not is_examining():
                        self.show_error("explain_step_error", error)
                raise
            finally:
                self._values = before
            with self.barrier.guarded():
                logs = self.probe.end(logs) if self.is_probed() else logs
            with self.barrier.guarded():
                self.first_trace.end()
            return logs

        return train_step

    def is_probed(self):
        """Returns whether the step that is made here and now is measured.

        A draft, which TensorFlow will trace once more, is not.
        """
        return (
            self.barrier.is_open
            and not self.first_trace.is_draft_here()
            and not is_examining()
            and is_measured_here()
            and (self._own_step is None or self._own_step.is_apart())
        )

    def data_here(self):
        """Returns the batch of the step that runs, else what it was like."""
        return self.traced.data if self._values is None else self._values


KEPT_STEP = "_keras_gradguard"


def step_for(model, modes):
    """Returns the guarded step of a training: the kept one if it holds.

    Args:
        model: A compiled Keras model whose `train_function` is made.
        modes: See `GuardedStep`.

    Returns:
        `(step, traced_for)`: the `GuardedStep`, and what `keep` was given
        with it, `None` if it is a new one.
    """
    names = getattr(model.train_function, "__dict__", {})
    step, traced_for = names.pop(KEPT_STEP, (None, None))
    if step is not None and step.training is None:
        if traced_for == trace_conditions(model, modes):
            return step, traced_for
    return GuardedStep(model, modes), None


def keep_step(step, train_function, traced_for):
    """Keeps a step for the next training.

    Args:
        step: The `GuardedStep`; its training is over.
        train_function: That of Keras, which it stands for.
        traced_for: What `conditions` returned once it was traced.
    """
    made = step.function
    is_own = (
        made is not train_function
        and type(made) is type(train_function)
        # Not one of the user's, which may outlive the model.
        and getattr(made, "__qualname__", None)
        == getattr(train_function, "__qualname__", None)
        and not isinstance(made, types.MethodType)
    )
    if is_own and functions_of(train_function):
        step.probe.reset()
        vars(train_function)[KEPT_STEP] = step, traced_for


def trace_conditions(model, modes):
    """Returns what must be the same for the trace of a step to hold.

    Args:
        model: A compiled Keras model whose `train_function` is made.
        modes: See `GuardedStep`.
    """
    parts = [
        part
        for layer in layers_of(model)
        for part in (layer, *own_weights(layer))
    ]
    return (
        modes,
        model.train_step,
        model.steps_per_execution,
        model.jit_compile,
        runs_eagerly(model) or tf.config.functions_run_eagerly(),
        runtime_here(),
        list(map(id, optimizers_of(model))),
        [(id(part), part.trainable) for part in parts],
    )
