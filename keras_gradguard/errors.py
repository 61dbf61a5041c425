"""What is raised and what is warned; no TensorFlow."""

import os
import traceback
import warnings

ACTIONS = ("warn", "raise", "stop")


class GradientBreakError(ValueError):
    """A gradient is broken; the text is the rendered diagnosis.

    Args:
        report: The `Report` that tells what is broken.
        cause: Text of the exception that this one stands for, if any.
    """

    # AutoGraph rebuilds exceptions that it does not know, unless told so.
    ag_pass_through = True

    def __init__(self, report, cause=None):
        self.report = report
        self._cause = cause
        text = "\n\n".join(str(item) for item in report.diagnoses)
        if cause:
            text += f"\n\nKeras says: {cause}"
        super().__init__(f"\n{text}")

    def __reduce__(self):
        return (type(self), (self.report, self._cause))


class LoopStopped(Exception):
    """Leaves the block of `watch`, which swallows it."""

    ag_pass_through = True


class GradientBreakWarning(UserWarning):
    """A gradient is broken, and training goes on."""


class GuardFaultWarning(UserWarning):
    """The guard itself failed and has switched itself off (GG900)."""


class UnsupportedBackendError(RuntimeError):
    """Keras runs on a backend on which gradients cannot be checked."""


class UnsupportedBackendWarning(UserWarning):
    """Training goes on, on a backend on which gradients are not checked."""


def warn_of(diagnosis):
    """Warns of a diagnosis, at the user's own line where there is one."""
    warnings.warn_explicit(
        f"\n{diagnosis}\n",
        GradientBreakWarning,
        filename=diagnosis.file or "keras_gradguard",
        lineno=diagnosis.line or 0,
    )


def checked_action(name, value, actions=ACTIONS):
    """Returns an action, or raises ValueError that says what is expected.

    Args:
        name: Name of the argument.
        value: What was given for it.
        actions: What may be given.
    """
    if value not in actions:
        expected = ", ".join(f'"{action}"' for action in actions)
        raise ValueError(
            f"`{name}` must be one of {expected}. Received: {name}={value!r}"
        )
    return value


STRICT = "KERAS_GRADGUARD_STRICT"


class FaultBarrier:
    """Runs the guard's own code; a fault of it never reaches training.

    The first fault is warned of once and closes the door. With the
    environment variable `KERAS_GRADGUARD_STRICT=1` faults are raised
    instead: the tests run like that.
    """

    def __init__(self):
        self.is_open = True

    def guarded(self):
        """Catches a fault of the code in the block; lets findings pass."""
        return self

    def __enter__(self):
        """Opens the block."""

    def __exit__(self, kind, fault, trace):
        """Tells of a fault, and keeps it from the training."""
        if kind is None or not issubclass(kind, Exception):
            return False
        if issubclass(kind, (GradientBreakError, LoopStopped)):
            return False
        if os.environ.get(STRICT) == "1":
            return False
        self.is_open = False
        where = traceback.extract_tb(trace)[-1]
        file = os.path.basename(where.filename)
        warnings.warn(
            "warning[GG900] guard-fault: keras_gradguard itself failed and "
            f"has switched itself off; training goes on. {file}:"
            f"{where.lineno}: {kind.__name__}: {fault}",
            GuardFaultWarning,
            stacklevel=2,
        )
        return True
