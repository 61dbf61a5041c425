"""The one door at which a fault of the guard itself is caught (GG900)."""

import os
import traceback
import warnings

from keras_gradguard.errors import (
    GradientBreakError,
    GuardFaultWarning,
    LoopStopped,
)

STRICT = "KERAS_GRADGUARD_STRICT"


class Door:
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
