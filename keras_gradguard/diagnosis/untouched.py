"""Step 4: look at a model by running it, and leave it as it was."""

import contextlib

import tensorflow as tf

from keras_gradguard.diagnosis import keras_internals, variable_internals
from keras_gradguard.diagnosis.attributes import (
    attributes_kept,
    plain_variables,
)
from keras_gradguard.diagnosis.randomness import random_state_kept
from keras_gradguard.diagnosis.trace import examining, optimizers_of
from keras_gradguard.diagnosis.writes import writes_undone


@contextlib.contextmanager
def untouched(model, with_optimizers=True):
    """Puts variables, attributes and random state back as they were.

    Args:
        model: A Keras model; its weights, metrics, random seeds and
            optimizers are kept, also after an exception.
        with_optimizers: Whether those are kept too; a forward pass does not
            need the room.
    """
    variables = [*model.variables, *model.metrics_variables]
    variables += plain_variables(model)
    for optimizer in optimizers_of(model) if with_optimizers else ():
        variables += optimizer.variables
    values = [
        (variable, tf.identity(variable))
        for variable in variables
        if variable_internals.has_value(variable)
    ]
    with (
        random_state_kept(),
        keras_internals.losses_kept(model),
        attributes_kept(model),
        examining(),
    ):
        try:
            with writes_undone():
                yield
        finally:
            for variable, value in values:
                variable.assign(value)
