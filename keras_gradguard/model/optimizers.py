"""Optimizers, as Keras has them."""

import inspect

import keras
import keras.src

from keras_gradguard.model.layers import layers_of

OPTIMIZER_MADE = inspect.unwrap(keras.optimizers.Optimizer.__init__).__code__

# Where an optimizer adds up the gradients of the replicas, and where it then
# updates the weights.
REDUCE = "_all_reduce_sum_gradients"
UPDATE = "_backend_update_step"


def variables_of(optimizer):
    """Returns the variables that a built optimizer trains."""
    return optimizer._trainable_variables


def applied_variables(optimizer, variables=None):
    """Returns the variables that a call of `apply` trains, a list.

    Args:
        optimizer: The optimizer, built if it is given none.
        variables: Those that the call was given, or `None`.
    """
    if variables is None:
        variables = variables_of(optimizer)
    return list(variables)


def updating(optimizer):
    """Returns the optimizer that makes the update: an inner one's if any.

    Args:
        optimizer: The one that a model was compiled with.
    """
    return getattr(optimizer, "inner_optimizer", optimizer)


def schedule_of(optimizer):
    """Returns the class name of a learning rate schedule, or `None`.

    Args:
        optimizer: The one that a model was compiled with.
    """
    schedule = schedule_object(optimizer)
    return None if schedule is None else type(schedule).__name__


def learning_rates(optimizer, step=None):
    """Returns the optimizers that one is made of, and their learning rates.

    Args:
        optimizer: The one that a model was compiled with.
        step: Number of the update that a schedule is asked about, from 0; by
            default the last one.

    Returns:
        A list of `(optimizer, rate)`: that which makes the update, or those
        that share its variables out. A rate is a float.
    """
    own = updating(optimizer)
    several = getattr(own, "optimizers", None)
    if several is not None:
        return [pair for o in several for pair in learning_rates(o, step)]
    rate = own.learning_rate
    schedule = schedule_object(own)
    if schedule is not None:
        number = keras.ops.convert_to_tensor(own.iterations)
        done = keras.ops.maximum(number - 1, 0)
        if step is not None:
            done = keras.ops.full_like(number, step)
        rate = schedule(done)
    return [(own, float(keras.ops.convert_to_numpy(rate)))]


def schedule_object(optimizer):
    """Returns the learning rate schedule of an optimizer, or `None`.

    Args:
        optimizer: The one that a model was compiled with.
    """
    rate = getattr(updating(optimizer), "_learning_rate", None)
    kind = keras.optimizers.schedules.LearningRateSchedule
    return rate if isinstance(rate, kind) else None


def loss_scale_of(optimizer):
    """Returns the loss scale that an optimizer divides gradients by.

    Args:
        optimizer: The one that a model was compiled with.

    Returns:
        `(scale, variable)`: a float and the Keras variable that holds it,
        `None` before it is built; `None` for an optimizer without one.
    """
    if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return None
    return float(optimizer.initial_scale), getattr(
        optimizer, "dynamic_scale", None
    )


def build_optimizer(optimizer, variables):
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


def is_plain_loss_scale(optimizer):
    """Returns whether an optimizer is one of Keras' with Keras' loss scale."""
    is_scaled = type(optimizer) is keras.optimizers.LossScaleOptimizer
    return is_scaled and is_plain_optimizer(optimizer.inner_optimizer)


def unknown_to(optimizer, variables):
    """Returns the variables that a built optimizer does not know."""
    if not optimizer.built:
        return []
    known = set(map(id, optimizer._trainable_variables))
    return [v for v in variables if id(v) not in known]


def optimizers_of(model):
    """Returns the optimizers that a model holds, the outermost of each.

    Args:
        model: See `named_optimizers`.
    """
    return [optimizer for _, optimizer in named_optimizers(model)]


def named_optimizers(model):
    """Returns a model's optimizers and the attributes that hold them.

    Args:
        model: A Keras model, or a layer that is a trainer as well; its own
            attributes are searched and those of the models and layers inside
            it, also lists and dicts of them.

    Returns:
        `(name, optimizer)` pairs, those of the outer model first.
    """
    # Each `fit` asks, and a layer has some fifty attributes.
    kinds = (dict, list, tuple, keras.optimizers.Optimizer)
    queue = []
    for part in layers_of(model):
        prefix = "" if part is model else f"{part.name}/"
        values = vars(part).items()
        queue += [(prefix + n, v) for n, v in values if isinstance(v, kinds)]
    found = {}
    for name, value in queue:
        if isinstance(value, keras.optimizers.Optimizer):
            found.setdefault(id(value), (name, value))
            continue
        is_dict = isinstance(value, dict)
        items = value.items() if is_dict else enumerate(value)
        queue += [(f"{name}/{k}", v) for k, v in items if isinstance(v, kinds)]
    return list(found.values())


def is_overwritten(variable):
    """Returns whether an optimizer writes the gradient over the variable."""
    return getattr(variable, "overwrite_with_gradient", False)
