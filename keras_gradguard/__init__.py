"""Finds broken gradients in Keras models while they train.

The names are loaded on first use, so that importing the package (as
TensorBoard does for its plugins) loads neither TensorFlow nor Keras.
"""

import importlib

_HOMES = {
    "Diagnosis": "records",
    "GradGuardLoss": "loss",
    "GradHealthCallback": "callback",
    "GradientBreakError": "errors",
    "GradientBreakWarning": "errors",
    "Report": "records",
    "check_loss": "loss_check",
    "diagnose": "model_check",
    "watch": "loop",
}

__all__ = sorted(_HOMES)
__version__ = "0.1.0"


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        home = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "tensorflow":
            raise
        raise ModuleNotFoundError(
            "keras_gradguard needs Keras on TensorFlow, and no TensorFlow is "
            "installed here. Install one: pip install tensorflow (or "
            "tensorflow-cpu, or your vendor's build).",
            name="tensorflow",
        ) from error
    value = getattr(home, name)
    globals()[name] = value
    return value


def __dir__():
    return [*globals(), *__all__]
