"""The private Keras internals, each once.

`tests/diagnosis/test_internals.py` names what a new release has changed.
"""

import contextlib
import inspect
import os

import keras
import keras.src
from keras.src.losses.losses import LossFunctionWrapper
from keras.src.trainers.compile_utils import get_loss, get_object_name

OPTIMIZER_MADE = inspect.unwrap(keras.optimizers.Optimizer.__init__).__code__

_COMPILE_FILE = get_loss.__code__.co_filename
_LOSS_FILE = keras.losses.Loss.call.__code__.co_filename

# Where an optimizer adds up the gradients of the replicas, and where it then
# updates the weights.
REDUCE = "_all_reduce_sum_gradients"
UPDATE = "_backend_update_step"


def wrapped_loss(function, given):
    """Returns the `Loss` that `compile` makes of a loss function.

    Args:
        function: A function of `(y_true, y_pred)`.
        given: What the user gave: a name, or the function.
    """
    name = given if isinstance(given, str) else get_object_name(function)
    return LossFunctionWrapper(function, name=name)


def resolved_loss(name, y_true, y_pred):
    """Returns the `Loss` that Keras picks for `"crossentropy"`."""
    return get_loss(name, y_true, y_pred)


def with_logits(tensors):
    """Returns predictions and the logits behind them.

    Keras' cross-entropies take the logits from behind a softmax or sigmoid,
    so that the gradient passes the activation by.
    """
    behind = (getattr(tensor, "_keras_logits", None) for tensor in tensors)
    return [*tensors, *(logits for logits in behind if logits is not None)]


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


def has_several_losses(model):
    """Returns whether `compile` got, or makes, more than one loss."""
    if isinstance(model.loss, (list, tuple, dict)):
        return True
    if model.loss is None:
        return False
    made = compiled_losses(model)
    return len(getattr(model, "outputs", ()) if made is None else made) > 1


def has_extra_losses(model):
    """Returns whether a regulariser or an `add_loss` adds to the loss."""
    if any(v.regularizer is not None for v in model.trainable_variables):
        return True
    return any(layer._losses for layer in layers_of(model))


def compiled_losses(model):
    """Returns what Keras made of `loss` in `compile`.

    Args:
        model: A compiled Keras model.

    Returns:
        The name of each loss's output, in the order of their calls; `None`
        if Keras has not matched losses and outputs yet.
    """
    compiled = getattr(model, "_compile_loss", None)
    if compiled is None:
        return ()
    if not compiled.built:
        return None
    flat = getattr(compiled, "_flat_losses", None)
    if flat is not None:
        return tuple(loss.name for loss in flat)
    # Keras 3.5 keeps the losses and the names of the outputs apart.
    losses = getattr(compiled, "flat_losses", None)
    if losses is None:
        return None
    names = compiled.inferred_output_names or ()
    if len(names) != len(losses):
        names = [getattr(loss, "name", None) for loss in losses]
    pairs = zip(names, losses, strict=True)
    return tuple(name for name, loss in pairs if loss is not None)


def variables_of(optimizer):
    """Returns the variables that a built optimizer trains."""
    return optimizer._trainable_variables


def updating(optimizer):
    """Returns the optimizer that makes the update: an inner one's if any.

    Args:
        optimizer: The one that a model was compiled with.
    """
    return getattr(optimizer, "inner_optimizer", optimizer)


def build(optimizer, variables):
    """Builds an optimizer as its first `apply` would.

    Args:
        optimizer: The optimizer.
        variables: The variables that it is to train.
    """
    with keras.src.backend.name_scope(optimizer.name, caller=optimizer):
        optimizer.build(variables)
    optimizer.built = True


def is_plain_optimizer(optimizer):
    """Returns whether a step does the same before and after it is built.

    A loss scale does not, and an optimizer of the user's own may not.
    """
    kind, plain = type(optimizer), keras.optimizers.Optimizer.scale_loss
    return kind.__module__.startswith("keras.") and kind.scale_loss is plain


def unbuilt(model):
    """Returns what builds the losses and metrics of `compile` in a step."""
    made = (getattr(model, f"_compile_{n}", None) for n in ("loss", "metrics"))
    return [one for one in made if one is not None and not one.built]


def unknown_to(optimizer, variables):
    """Returns the variables that a built optimizer does not know."""
    if not optimizer.built:
        return []
    known = set(map(id, optimizer._trainable_variables))
    return [v for v in variables if id(v) not in known]


def own_weights(layer):
    """Returns the weights of a layer itself that may be trained."""
    return layer._trainable_variables


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
    return type(model).train_step.__module__.startswith("keras.")


def is_default_sum(model):
    """Returns whether Keras itself adds up the losses of a model."""
    return is_default_step(model) and type(
        model
    ).compute_loss.__module__.startswith("keras.")


def accepts_training(model):
    """Returns whether `call` of a model has a `training` argument."""
    return model._call_has_training_arg


def trainer_file():
    """Returns the file of Keras' own training loop."""
    return keras.Model.fit.__wrapped__.__code__.co_filename


def is_in_compiled_loss(frames):
    """Returns whether Keras' own sum of losses made an op, not a loss.

    Args:
        frames: `(file, line, function)`s of the op, the outermost first.
    """
    files = [file for file, _, _ in frames]
    later = files[::-1].index(_COMPILE_FILE) if _COMPILE_FILE in files else 0
    return later > 0 and _LOSS_FILE not in files[-later:]


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
