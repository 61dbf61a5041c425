"""What a user may give as a loss, and the `Loss` that Keras makes of it."""

import keras
import keras.src
from keras.src.losses.losses import LossFunctionWrapper
from keras.src.trainers.compile_utils import get_loss, get_object_name

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
    behind = (getattr(tensor, "_keras_logits", None) for tensor in tensors)
    return [*tensors, *(logits for logits in behind if logits is not None)]


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
    if isinstance(loss, str) and loss.lower() in ("crossentropy", "ce"):
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
