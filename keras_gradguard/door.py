"""The one door at which a fault of the guard itself is caught (GG900)."""

import contextlib
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

    @contextlib.contextmanager
    def guarded(self):
        """Catches a fault of the code in the block; lets findings pass."""
        try:
            yield
        except (GradientBreakError, LoopStopped):
            raise
        except Exception as fault:
            if os.environ.get(STRICT) == "1":
                raise
            self.is_open = False
            where = traceback.extract_tb(fault.__traceback__)[-1]
            file = os.path.basename(where.filename)
            warnings.warn(
                "warning[GG900] guard-fault: keras_gradguard itself failed and "
                f"has switched itself off; training goes on. {file}:"
                f"{where.lineno}: {type(fault).__name__}: {fault}",
                GuardFaultWarning,
                stacklevel=3,
            )
