"""What a first step makes is made outside of its trace.

Keras has the first step build the layers, the optimizer and the metrics.
TensorFlow throws a trace away in which variables were made, and traces the
step once more: half of what a first `fit` takes. Built outside, the first
trace counts.
"""

import functools
import weakref

import keras
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
from keras_gradguard.model.layers import builders_of, is_default_step
from keras_gradguard.model.optimizers import (
    build_optimizer,
    is_plain_loss_scale,
    is_plain_optimizer,
)


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
        self._is_alone = is_alone
        self._draft = self._again = self._noted = None
        self._is_building = self._has_built = self._is_changed = False
        self._known = set()
        self.patches = []
        if is_alone:
            self.patches = [
                (one, name, self._hooked(one, getattr(one, name)))
                for one, name in builders_of(model)
            ]

    def begin(self, may_lift=True):
        """Notes where a step begins.

        Args:
            may_lift: Whether the trace may count. One that puts metrics back
                as they were has to know them from its beginning.
        """
        if is_examining():
            return
        self._draft = self._noted = None
        self._has_built = self._is_changed = False
        if may_lift and self._is_alone and not tf.executing_eagerly():
            self._known = set(map(id, self._model.variables))
            self._noted = _PythonState(self._model)

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

    def before_scaling(self, optimizer):
        """Builds an optimizer with a loss scale, as the first step does.

        The scale of a first trace is a number, that of the second one a
        variable: the trace that counts has to find the variable.

        Args:
            optimizer: The optimizer that is about to scale a loss.
        """
        variables = self._model.trainable_variables
        if (
            not optimizer.built
            and variables
            and is_default_step(self._model)
            and is_plain_loss_scale(optimizer)
            and self._may_lift()
        ):
            self._built(
                functools.partial(build_optimizer, optimizer, variables)
            )

    def is_draft_here(self):
        """Returns whether the trace of now is known to be thrown away."""
        return self._draft is not None and is_within(self._draft())

    def end(self):
        """Asks for a second trace if the first one has changed something."""
        if is_examining():
            return
        has_built, self._has_built = self._has_built, False
        if not has_built:
            return
        is_changed = True
        with self._step.barrier.guarded():
            is_changed = (
                not self._step.barrier.is_open
                or self._is_changed
                or self._noted.has_changed(self._model)
            )
        if is_changed:
            self._again = tf.Variable(0.0, trainable=False)

    def _hooked(self, one, original):
        @functools.wraps(original)
        def build(*args, **kwargs):
            make = functools.partial(original, *args, **kwargs)
            if one.built:
                return make()
            built = functools.partial(self._built, one=one)
            return self._step.barrier.wrapped(built, make)

        return build

    def _built(self, build, one=None):
        """Builds something outside of the trace, if one trace may do."""
        may_lift = False
        with self._step.barrier.guarded():
            is_open = self._step.barrier.is_open and not self._is_building
            if is_open and self._may_lift():
                self._is_changed |= self._noted.has_changed(one)
                may_lift = True
        if not may_lift:
            return build()
        self._has_built = self._is_building = True
        try:
            with self._step.barrier.around(made_outside()):
                done = build()
        finally:
            self._is_building = False
        with self._step.barrier.guarded():
            self._known |= set(map(id, self._model.variables))
            self._noted.note_built(one)
        return done

    def _may_lift(self):
        is_traced = self._noted is not None and not tf.executing_eagerly()
        return (
            is_traced
            and not is_examining()
            and not tf.distribute.has_strategy()
            and self._known.issuperset(map(id, self._model.variables))
        )


class _PythonState:
    """What a step may change in Python while it is traced.

    Args:
        model: The Keras model.
    """

    def __init__(self, model):
        self._numbers, self._attributes = python_numbers(), attributes_of(model)

    def has_changed(self, one):
        """Returns whether anything is otherwise than it was noted.

        Args:
            one: The model, or a layer alone; `None` for what Python and
                NumPy draw alone.
        """
        known = self._attributes
        return self._numbers != python_numbers() or any(
            known.get(key) != found for key, found in _attributes(one).items()
        )

    def note_built(self, one):
        """Takes what building has changed as it is now.

        Args:
            one: The layer that was built, `None` for all else.
        """
        self._numbers = python_numbers()
        self._attributes |= _attributes(one)


def _attributes(one):
    return attributes_of(one) if isinstance(one, keras.Layer) else {}
