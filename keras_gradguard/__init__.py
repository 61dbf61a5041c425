"""Finds broken gradients in Keras models while they train.

- `GradHealthCallback`: checks and records the gradients of `fit`.
- `GradGuardLoss`: wraps a loss in `compile` and checks its gradient.
- `watch`: checks a custom training loop with `tf.GradientTape`.
- `diagnose`: checks a compiled model on one batch, without training.
- `check_loss`: checks a loss on one batch, without a model.
- `Report`, `Diagnosis`: what the others return.
- `GradientBreakError`, `GradientBreakWarning`: what they raise and warn.
"""

import importlib

# Loaded on first use: TensorBoard imports the package for its plugin, and that
# must load neither TensorFlow nor Keras.
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
            "keras_gradguard needs Keras on TensorFlow, but TensorFlow is not "
            "installed: pip install tensorflow (or tensorflow-cpu, or your "
            "vendor's build).",
            name="tensorflow",
        ) from error
    value = getattr(home, name)
    globals()[name] = value
    return value


def __dir__():
    return [*globals(), *__all__]
