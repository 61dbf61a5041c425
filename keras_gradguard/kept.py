"""Step 1 of 5: the guarded step of one `fit`, kept for the next one.

Keras drops its train function with the model, and in each `compile`. The step
is to go with it; a table of steps would hold them, and by them the models, for
good. So it is an attribute of that function.
"""

import types

import tensorflow as tf

from keras_gradguard.diagnosis import internals, keras_internals
from keras_gradguard.diagnosis.eagerness import runs_eagerly
from keras_gradguard.diagnosis.trace import optimizers_of
from keras_gradguard.guarded_step import GuardedStep

NAME = "_keras_gradguard"


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
    step, traced_for = names.pop(NAME, (None, None))
    if step is not None and step.training is None:
        if traced_for == conditions(model, modes):
            return step, traced_for
    return GuardedStep(model, modes), None


def keep(step, train_function, traced_for):
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
    if is_own and keras_internals.functions_of(train_function):
        step.probe.reset()
        vars(train_function)[NAME] = step, traced_for


def conditions(model, modes):
    """Returns what must be the same for the trace of a step to hold.

    Args:
        model: A compiled Keras model whose `train_function` is made.
        modes: See `GuardedStep`.
    """
    parts = [
        part
        for layer in keras_internals.layers_of(model)
        for part in (layer, *keras_internals.own_weights(layer))
    ]
    return (
        modes,
        model.train_step,
        model.steps_per_execution,
        model.jit_compile,
        runs_eagerly(model) or tf.config.functions_run_eagerly(),
        internals.runtime(),
        list(map(id, optimizers_of(model))),
        [(id(part), part.trainable) for part in parts],
    )
