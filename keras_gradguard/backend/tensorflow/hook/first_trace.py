"""What a first step makes is made outside of its trace.

Keras has the first step build the optimizer and the metrics. TensorFlow
throws a trace away in which variables were made, and traces the step once
more: half of what a first `fit` takes. Built outside, the first trace counts.
"""

import functools
import weakref

import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.graphs import (
    function_graph_here,
    is_within,
)
from keras_gradguard.backend.tensorflow.internals.randomness import (
    python_numbers,
)
from keras_gradguard.backend.tensorflow.internals.variables import (
    is_in_draft,
    made_outside,
)
from keras_gradguard.backend.tensorflow.tracing.restore import (
    attributes_of,
    is_examining,
)
from keras_gradguard.model.layers import is_default_step, unbuilt_parts
from keras_gradguard.model.optimizers import build_optimizer, is_plain_optimizer


class FirstTrace:
    """Builds what the first step of one training builds.

    A step that draws a random number while it is traced, or counts its calls
    in Python, keeps what it finds as a constant, without the guard that of
    the second trace. So then there is a second one here too.

    Args:
        model: The Keras model.
        is_alone: Whether one replica trains it.
        step: Has `barrier`, the fault barrier of the training that runs. A
            fault changes nothing of how often the step is traced.

    Attributes:
        patches: `(instance, name, value)`s that put it in place.
    """

    def __init__(self, model, is_alone, step):
        self._model = model
        self._step = step
        # A step of the user's own may do anything anywhere.
        self._is_plain = is_alone and is_default_step(model)
        self._before = self._draft = self._again = None
        self._has_built, self._known = False, set()
        self.patches = []
        if self._is_plain:
            self.patches = [
                (one, "build", self._hooked_build(one.build))
                for one in unbuilt_parts(model)
            ]

    def begin(self, may_lift=True):
        """Notes where a step begins.

        Args:
            may_lift: Whether the trace may count. One that puts metrics back
                as they were has to know them from its beginning.
        """
        if is_examining():
            return
        self._before = self._draft = None
        self._has_built = False
        if may_lift and not tf.executing_eagerly():
            self._known = set(map(id, self._model.variables))
            self._before = self._found()

    def build(self, optimizer, variables):
        """Builds an optimizer, as its first `apply` would.

        Args:
            optimizer: The optimizer.
            variables: The variables that it is to train.
        """
        if optimizer.built or tf.executing_eagerly():
            return
        build = functools.partial(build_optimizer, optimizer, variables)
        if is_plain_optimizer(optimizer):
            self._built(build)
        else:
            build()
        if any(map(is_in_draft, optimizer.variables)):
            self._draft = weakref.ref(function_graph_here())

    def is_draft_here(self):
        """Returns whether the trace of now is known to be thrown away."""
        return self._draft is not None and is_within(self._draft())

    def end(self):
        """Asks for a second trace if the first one has changed something."""
        has_built, self._has_built = self._has_built, False
        if not has_built:
            return
        is_changed = True
        with self._step.barrier.guarded():
            is_changed = not is_examining() and self._before != self._found()
        if is_changed:
            self._again = tf.Variable(0.0, trainable=False)

    def _found(self):
        return python_numbers(), attributes_of(self._model)

    def _hooked_build(self, original):
        @functools.wraps(original)
        def build(*args, **kwargs):
            make = functools.partial(original, *args, **kwargs)
            return self._step.barrier.wrapped(self._built, make)

        return build

    def _built(self, build):
        """Builds something outside of the trace, if one trace may do."""
        may_lift = False
        with self._step.barrier.guarded():
            may_lift = self._step.barrier.is_open and self._may_lift()
        if not may_lift:
            return build()
        self._has_built = True
        with self._step.barrier.around(made_outside()):
            done = build()
        with self._step.barrier.guarded():
            self._known |= set(map(id, self._model.variables))
        return done

    def _may_lift(self):
        is_traced = self._before is not None and not tf.executing_eagerly()
        return (
            is_traced
            and self._is_plain
            and not is_examining()
            and not tf.distribute.has_strategy()
            and self._known.issuperset(map(id, self._model.variables))
        )
