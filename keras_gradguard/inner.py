"""What a user may give as a loss, and the `Loss` that Keras makes of it."""

import keras

from keras_gradguard.diagnosis import keras_internals


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
            f"outputs wrap each loss. Received: loss={loss!r}"
        )
    return keras_internals.wrapped_loss(found, loss)
