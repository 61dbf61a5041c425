"""Which backend Keras runs on, and what looks at a step by it.

The backend is fixed once Keras is imported. An entry point imports what needs
TensorFlow only where `unsupported` returns `None`. What is named here is all
that the rest of the package asks a backend for by itself; those imports wait
until they are needed.
"""

import warnings

import keras

from keras_gradguard.errors import (
    UnsupportedBackendError,
    UnsupportedBackendWarning,
)

_warned = set()


def unsupported():
    """Says why nothing can be checked in this process.

    Returns:
        One sentence that names the backend of Keras, the supported one and
        how to choose it; `None` where Keras runs on that one.
    """
    name = keras.backend.backend()
    if name == "tensorflow":
        return None
    return (
        f"the Keras backend is {name}, but keras_gradguard supports only "
        "tensorflow: before Keras is imported, set KERAS_BACKEND=tensorflow in "
        'the environment, os.environ["KERAS_BACKEND"] = "tensorflow" above '
        '`import keras`, or "backend": "tensorflow" in keras.json'
    )


def require_supported():
    """Raises `UnsupportedBackendError` where nothing can be checked."""
    reason = unsupported()
    if reason is not None:
        raise UnsupportedBackendError(reason)


def warn_unsupported():
    """Warns once in a process that nothing is checked, and why."""
    reason = unsupported()
    if reason is not None and reason not in _warned:
        _warned.add(reason)
        warnings.warn(
            f"Gradients are not checked: {reason}.",
            UnsupportedBackendWarning,
            stacklevel=3,
        )


def step_evidence(model, data, seen=None):
    """Returns what looks at a training step, see `graph.trace`.

    Args:
        model: The compiled model.
        data: The batch as `train_step` gets it, or `None`.
        seen: The `Trace` of a step that was looked at while it ran.
    """
    from keras_gradguard.backend.tensorflow.tracing.evidence import (
        StepEvidence,
    )

    return StepEvidence(model, data, seen)


def loss_evidence(loss, y_true, y_pred):
    """Returns what looks at a loss alone, see `graph.trace`.

    Args:
        loss: A `keras.losses.Loss`.
        y_true: Its targets: tensors, or a nest of them.
        y_pred: Its predictions, alike.
    """
    from keras_gradguard.backend.tensorflow.tracing.evidence import (
        LossEvidence,
    )

    return LossEvidence(loss, y_true, y_pred)


def packed(nest, arrays):
    """Returns a batch as JSON-ready values, see `internals.batches`.

    Args:
        nest: The batch as `train_step` gets it.
        arrays: A dict; the arrays of the batch are put in.
    """
    from keras_gradguard.backend.tensorflow.internals import batches

    return batches.packed(nest, arrays)


def stored(name, value, arrays):
    """Puts one array away, see `internals.batches`.

    Args:
        name: Its name.
        value: The array.
        arrays: A dict; the array is put in.
    """
    from keras_gradguard.backend.tensorflow.internals import batches

    return batches.stored(name, value, arrays)
