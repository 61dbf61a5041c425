"""Step 1 of 5: what a first step makes is made outside of its trace.

Keras has the first step build the optimizer and the metrics. TensorFlow
throws a trace away in which variables were made, and traces the step once
more: half of what a first `fit` takes. Built outside, the first trace counts.
"""

import contextlib
import functools
import weakref

import tensorflow as tf

from keras_gradguard.diagnosis import (
    internals,
    keras_internals,
    variable_internals,
)
from keras_gradguard.diagnosis.randomness import python_numbers


class FirstTrace:
    """Builds what the first step of one training builds.

    A step that draws a random number while it is traced keeps it as a
    constant, that of the second trace. So there are two of them then, as
    there are without the guard.

    Args:
        model: The Keras model.
        is_alone: Whether one replica trains it.

    Attributes:
        patches: `(instance, name, value)`s that put it in place.
    """

    def __init__(self, model, is_alone):
        self._model = model
        # A step of the user's own may do anything anywhere.
        self._is_plain = is_alone and keras_internals.is_default_step(model)
        self._numbers = self._draft = None
        self._known = set()
        self.patches = []
        metrics = keras_internals.unbuilt_metrics(model)
        if metrics is not None and self._is_plain:
            build = self._hooked_build(metrics.build)
            self.patches.append((metrics, "build", build))

    def begin(self):
        """Notes where a step begins."""
        is_traced = not tf.executing_eagerly()
        self._numbers = python_numbers() if is_traced else None
        self._known = set(map(id, self._model.variables))
        self._draft = None

    def build(self, optimizer, variables):
        """Builds an optimizer, as its first `apply` would.

        Args:
            optimizer: The optimizer.
            variables: The variables that it is to train.
        """
        if optimizer.built or tf.executing_eagerly():
            return
        if self._is_lifted():
            with _lifted():
                keras_internals.build(optimizer, variables)
            return
        keras_internals.build(optimizer, variables)
        if any(map(variable_internals.is_in_draft, optimizer.variables)):
            self._draft = weakref.ref(internals.function_graph_here())

    def is_draft_here(self):
        """Returns whether the trace of now is known to be thrown away."""
        return self._draft is not None and internals.is_within(self._draft())

    def _hooked_build(self, original):
        @functools.wraps(original)
        def build(*args, **kwargs):
            if self._is_lifted():
                # A metric of the user's own may do more than look at shapes:
                # what fails out there may do in the trace.
                with contextlib.suppress(Exception), _lifted():
                    return original(*args, **kwargs)
            return original(*args, **kwargs)

        return build

    def _is_lifted(self):
        """Whether nothing else asks for a second trace of this step."""
        return (
            self._is_plain
            and not tf.distribute.has_strategy()
            and self._numbers is not None
            and self._numbers == python_numbers()
            and self._known.issuperset(map(id, self._model.variables))
        )


@contextlib.contextmanager
def _lifted():
    """Leads out of the trace.

    What is assigned to a new variable there is taken back: with the trace
    that is thrown away it would have been lost too.
    """
    made = []

    def note(variable):
        made.append((variable, variable.read_value()))

    with internals.room(note):
        yield
        for variable, value in made:
            variable.assign(value)
