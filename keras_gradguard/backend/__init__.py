"""The one place that asks which backend Keras runs on.

It is fixed once Keras is imported. An entry point imports what needs
TensorFlow only where `unsupported` returns `None`.
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
        f"the Keras backend is {name}, and keras_gradguard supports tensorflow "
        "only: choose it before Keras is imported, by KERAS_BACKEND=tensorflow "
        'in the environment, by os.environ["KERAS_BACKEND"] = "tensorflow" '
        'above `import keras`, or by "backend": "tensorflow" in keras.json'
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
