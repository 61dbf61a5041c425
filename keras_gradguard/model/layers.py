"""The private Keras internals, each once.

`tests/internals/test_graphs.py` names what a new release has changed.
"""

import contextlib
import functools
import os

import keras
import keras.src
from keras.src.backend.tensorflow import trainer
from keras.src.trainers.data_adapters.array_data_adapter import (
    ArrayDataAdapter,
)

from keras_gradguard.model.losses import _LOSS_FILE


def layers_of(model):
    """Returns a model and all layers in it, outer before inner."""
    return list(model._flatten_layers())


def state_of(model):
    """Returns the variables that a step reads: weights and random seeds.

    Args:
        model: A Keras model; its metrics are left out.
    """
    metrics = {id(variable) for variable in model.metrics_variables}
    own = [v for v in model.variables if id(v) not in metrics]
    seeds = keras.src.backend.common.global_state.get_global_attribute(
        "global_seed_generator"
    )
    return own if seeds is None else [*own, seeds.state]


@contextlib.contextmanager
def losses_kept(model):
    """Keeps the `add_loss` terms of a model as they were."""
    kept = [(layer, list(layer._losses)) for layer in layers_of(model)]
    try:
        yield
    finally:
        for layer, losses in kept:
            layer._losses[:] = losses


def has_extra_losses(model):
    """Returns whether a regulariser or an `add_loss` adds to the loss."""
    if any(v.regularizer is not None for v in model.trainable_variables):
        return True
    return any(layer._losses for layer in layers_of(model))


def builders_of(model):
    """Returns what builds the layers, losses and metrics in a first step.

    Args:
        model: A compiled Keras model.

    Returns:
        `(instance, name)` of each method that a step calls to build one.
    """
    made = (getattr(model, f"_compile_{n}", None) for n in ("loss", "metrics"))
    return [
        *((one, "_maybe_build") for one in layers_of(model) if not one.built),
        *((one, "build") for one in made if one is not None and not one.built),
    ]


@functools.cache
def names_of_keras():
    """Returns the names of the attributes that Keras gives each model."""
    return frozenset(vars(keras.Model(name="names")))


def own_weights(layer):
    """Returns the weights of a layer itself that may be trained."""
    return layer._trainable_variables


@contextlib.contextmanager
def weights_added(weights):
    """Lets layers have more trainable weights while the block runs.

    Args:
        weights: `(layer, variable)` pairs.
    """
    kept = [(own_weights(layer), [*own_weights(layer)]) for layer, _ in weights]
    try:
        for layer, variable in weights:
            own_weights(layer).append(variable)
        yield
    finally:
        for known, before in kept:
            known[:] = before


def functions_of(train_function):
    """Returns the `tf.function`s in a train function, the outermost first."""
    cells = getattr(train_function, "__closure__", None) or ()
    # Keras 3.5 has the `tf.function` itself in its place.
    known = [train_function, *(cell.cell_contents for cell in cells)]
    counted = "experimental_get_tracing_count"
    return [function for function in known if hasattr(function, counted)]


def uses_float16(model):
    """Returns whether some layer of a model computes in float16."""
    return any(layer.compute_dtype == "float16" for layer in layers_of(model))


def is_default_step(model):
    """Returns whether `train_step` is the one that Keras brings."""
    # Code that `exec` ran may know no module.
    return (type(model).train_step.__module__ or "").startswith("keras.")


def is_default_sum(model):
    """Returns whether Keras itself adds up the losses of a model."""
    return is_default_step(model) and type(
        model
    ).compute_loss.__module__.startswith("keras.")


def accepts_training(model):
    """Returns whether `call` of a model has a `training` argument."""
    return model._call_has_training_arg


def trainer_file():
    """Returns the file of Keras' own training loop.

    It is that of the module: others wrap or replace `fit` itself, on the
    class or on an instance.
    """
    return trainer.__file__


def data_of_fit(frame):
    """Returns what goes through the data of a `fit`, made anew for each.

    Args:
        frame: The frame that calls the callbacks.

    Returns:
        The epoch iterator, `None` if the frame is not that of Keras' own
        `fit`.
    """
    code = frame.f_code
    if code.co_name != "fit" or code.co_filename != trainer_file():
        return None
    return frame.f_locals.get("epoch_iterator")


def is_drawn_elsewhere(data):
    """Returns whether Python code may make the batches in other threads.

    Args:
        data: What `data_of_fit` has returned.
    """
    adapter = getattr(data, "data_adapter", None)
    return adapter is not None and not isinstance(adapter, ArrayDataAdapter)


def is_loss_call(file, line, function):
    """Returns whether a frame is that of the call of a loss.

    Args:
        file: File of the frame.
        line: Its line.
        function: Name of its function.
    """
    del line
    return (file, function) == (_LOSS_FILE, "__call__")


def functional_call(frames):
    """Returns what a Functional model called, if that made an op.

    Args:
        frames: `(file, line, function)`s of the op, the outermost first.

    Returns:
        Names of the backend functions that ran, the outermost first; empty
        if the op was not made by a Functional model's own graph.
    """
    folder = os.path.dirname(keras.src.__file__)
    graph = os.path.join(folder, "ops", "function.py")
    backend = os.path.join(folder, "backend", "tensorflow") + os.sep
    if not any(file == graph for file, _, _ in frames):
        return ()
    return tuple(
        function
        for file, _, function in frames
        if file.startswith(backend)
        and not function.startswith("_")
        and file != trainer_file()
    )


def runs_eagerly(model):
    """Returns whether the training step of a model runs eagerly.

    Args:
        model: A Keras model. Where its step is not made yet, or not by Keras
            itself, what it was compiled with counts.
    """
    step = model.train_function
    if functions_of(step):
        return False
    module = getattr(step, "__module__", None) or ""
    return module.startswith("keras.") or bool(model.run_eagerly)
