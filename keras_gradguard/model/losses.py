"""What a user may give as a loss, and the `Loss` that Keras makes of it."""

import dataclasses

import keras
import keras.src
from keras.src.losses.losses import LossFunctionWrapper
from keras.src.trainers.compile_utils import get_loss, get_object_name

BINARY, CATEGORICAL, SPARSE = "binary", "categorical", "sparse"
# Whether each takes the logits from behind an activation of Keras'.
_CROSSENTROPIES = {
    keras.losses.binary_crossentropy: (BINARY, True),
    keras.losses.binary_focal_crossentropy: (BINARY, False),
    keras.losses.categorical_crossentropy: (CATEGORICAL, True),
    keras.losses.categorical_focal_crossentropy: (CATEGORICAL, False),
    keras.losses.sparse_categorical_crossentropy: (SPARSE, True),
}
_REGRESSIONS = (
    keras.losses.mean_squared_error,
    keras.losses.mean_absolute_error,
    keras.losses.huber,
    keras.losses.log_cosh,
)
_AUTOMATIC = ("crossentropy", "ce")

_COMPILE_FILE = get_loss.__code__.co_filename
_LOSS_FILE = keras.losses.Loss.call.__code__.co_filename


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
    behind = map(logits_behind, tensors)
    return [*tensors, *(logits for logits in behind if logits is not None)]


def logits_behind(tensor):
    """Returns what Keras takes from behind an activation, or `None`."""
    return getattr(tensor, "_keras_logits", None)


def is_masked(tensor):
    """Returns whether Keras masks some of a prediction."""
    return getattr(tensor, "_keras_mask", None) is not None


def has_several_losses(model):
    """Returns whether `compile` got, or makes, more than one loss."""
    if isinstance(model.loss, (list, tuple, dict)):
        return True
    if model.loss is None:
        return False
    made = compiled_losses(model)
    return len(getattr(model, "outputs", ()) if made is None else made) > 1


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


def compiled_loss_objects(model):
    """Returns the `Loss`es that Keras has made of `loss` in `compile`, a list.

    Args:
        model: A compiled Keras model.
    """
    compiled = getattr(model, "_compile_loss", None)
    flat = getattr(compiled, "_flat_losses", None)
    if flat is not None:
        return [known.loss for known in flat]
    found = getattr(compiled, "flat_losses", None) or ()
    return [loss for loss in found if loss is not None]


def is_in_compiled_loss(frames):
    """Returns whether Keras' own sum of losses made an op, not a loss.

    Args:
        frames: `(file, line, function)`s of the op, the outermost first.
    """
    files = [file for file, _, _ in frames]
    later = files[::-1].index(_COMPILE_FILE) if _COMPILE_FILE in files else 0
    return later > 0 and _LOSS_FILE not in files[-later:]


def inner_loss(loss):
    """Returns the `Loss` that Keras would make of what a user gave.

    Args:
        loss: A `keras.losses.Loss`, a function of `(y_true, y_pred)`, or
            the name of a Keras loss.

    Returns:
        A `Loss`; `None` for `"crossentropy"`, which Keras picks by the
        shapes of a batch.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(loss, str) and loss.lower() in _AUTOMATIC:
        return None
    found = loss
    if isinstance(loss, (str, type)):
        try:
            found = keras.losses.get(loss)
        except (ValueError, TypeError):
            found = None
    if isinstance(found, keras.losses.Loss):
        return found
    if isinstance(loss, type) or not callable(found):
        raise ValueError(
            "`loss` must be a keras.losses.Loss, a function of (y_true, "
            'y_pred), or the name of a Keras loss such as "mse"; for several '
            f"outputs, wrap each loss separately. Received: loss={loss!r}"
        )
    return wrapped_loss(found, loss)


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """What a cross-entropy of Keras' expects.

    Args:
        kind: `"binary"`, `"categorical"` or `"sparse"`.
        from_logits: Whether it expects scores instead of probabilities.
        takes_logits: Whether it takes the logits from behind an activation
            of Keras' where there is one.
        axis: The axis of the classes.
    """

    kind: str
    from_logits: bool
    takes_logits: bool
    axis: int


def crossentropy_of(loss):
    """Returns the `CrossEntropy` that a loss of Keras' is, `None` for others.

    Args:
        loss: A `keras.losses.Loss`.
    """
    function = getattr(loss, "fn", None)
    try:
        known = _CROSSENTROPIES.get(function)
    except TypeError:
        return None
    if known is None:
        return None
    given = getattr(loss, "_fn_kwargs", {})
    axis = given.get("axis", -1)
    return CrossEntropy(
        known[0],
        bool(given.get("from_logits", False)),
        known[1],
        axis if isinstance(axis, int) else -1,
    )


def is_regression(loss):
    """Returns whether a loss of Keras' is a distance between two numbers.

    Args:
        loss: A `keras.losses.Loss`.
    """
    function = getattr(loss, "fn", None)
    return any(function is known for known in _REGRESSIONS)


def may_misfit(model, lowest, highest):
    """Returns whether output, loss and labels may not fit each other.

    Args:
        model: A compiled Keras model.
        lowest: The lowest of its labels, 0 where there is none.
        highest: The highest.
    """
    losses = given_losses(model)
    known = [crossentropy_of(loss) for loss in losses]
    activation, units = _head(model)
    is_unit = activation in ("sigmoid", "softmax")
    if not any(known):
        is_distance = any(map(is_regression, losses))
        is_below = lowest < 0.0 and activation == "relu"
        is_beyond = lowest < 0.0 or highest > 1.0
        is_beyond &= is_unit or activation is None
        return is_distance and (is_below or is_beyond)
    if len(losses) != 1 or activation is None or not known[0].takes_logits:
        return True
    if known[0].kind != BINARY and units == 1:
        return True
    if activation == "softmax" and units in (1, None):
        return True
    if known[0].from_logits == is_unit:
        return True
    is_low = known[0].kind != SPARSE and lowest < 0.0
    return is_low or (known[0].kind == BINARY and highest > 1.0)


def given_losses(model):
    """The `Loss`es that `compile` got; of an automatic one that it may be.

    What a `GradGuardLoss` wraps stands for it.
    """
    found = []
    for given in keras.tree.flatten(getattr(model, "loss", None)):
        given = getattr(given, "guarded_loss", given)
        if given is None:
            continue
        try:
            loss = inner_loss(given)
        except ValueError:
            continue
        found.append(
            keras.losses.BinaryCrossentropy() if loss is None else loss
        )
    return found


def output_layer(model):
    """Returns the layer or operation that makes the only output of a model.

    Args:
        model: A Keras model.

    Returns:
        It; `None` for a model that is no graph of layers, or has several
        outputs.
    """
    outputs = getattr(model, "outputs", None) or ()
    if len(outputs) != 1:
        return None
    return getattr(outputs[0]._keras_history, "operation", None)


def activation_of(model):
    """Returns the name of the last activation, `None` if it is not known.

    Args:
        model: A Keras model.
    """
    return _head(model)[0]


def _head(model):
    """The name of the last activation, and how many units it is over.

    Returns:
        `(activation, units)`, each `None` where it is not known.
    """
    layer = output_layer(model)
    if layer is None:
        return None, None
    (output,) = model.outputs
    if isinstance(layer, keras.layers.Softmax):
        return "softmax", None
    function = getattr(layer, "activation", None)
    name = getattr(function, "__name__", None)
    is_own = name and getattr(keras.activations, name, None) is function
    units = output.shape[-1] if len(output.shape) else None
    return (name, units) if is_own else (None, units)


def may_stand_for(name, loss):
    """Returns whether a text in `compile` may have given a loss.

    Args:
        name: The text.
        loss: A `keras.losses.Loss`.
    """
    if not isinstance(name, str):
        return False
    try:
        found = keras.losses.get(name)
    except (ValueError, TypeError):
        return False
    function = getattr(found, "fn", found)
    return function is getattr(loss, "fn", loss)
