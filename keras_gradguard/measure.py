"""Step 3 of 5: from statistics to the health of each variable."""

import collections
import math

from keras_gradguard.capture import MISSING
from keras_gradguard.records import VariableHealth


def unique_paths(variables):
    """Returns the Keras paths of variables, `#2` added where one repeats.

    Args:
        variables: Keras variables; a bare `tf.Variable` goes by its name.
    """
    count, paths = collections.Counter(), []
    for variable in variables:
        path = getattr(variable, "path", None) or variable.name
        count[path] += 1
        paths.append(f"{path}#{count[path]}" if count[path] > 1 else path)
    return tuple(paths)


def health(variable, path, norm=None, step=None):
    """Returns the `VariableHealth` of one measured gradient.

    Args:
        variable: The Keras variable.
        path: Its unique path.
        norm: L2 norm, `capture.MISSING` for no gradient, `None` if it was
            not measured.
        step: Step of the measurement.
    """
    status = _status(norm)
    return VariableHealth(
        path=path,
        shape=tuple(variable.shape),
        dtype=_dtype_name(variable),
        status=status,
        norm=None if status in ("missing", "unknown") else float(norm),
        step=step,
    )


def global_norm(norms):
    """Returns the L2 norm over all gradients that are there, or `None`.

    Args:
        norms: Floats, `capture.MISSING` for no gradient.
    """
    present = [float(norm) for norm in norms if norm != MISSING]
    if not present:
        return None
    if not all(math.isfinite(norm) for norm in present):
        return math.nan if any(map(math.isnan, present)) else math.inf
    return math.hypot(*present)


def _status(norm):
    if norm is None:
        return "unknown"
    if norm == MISSING:
        return "missing"
    if not math.isfinite(norm):
        return "nonfinite"
    return "zero" if norm == 0 else "ok"


def _dtype_name(variable):
    dtype = variable.dtype
    return dtype if isinstance(dtype, str) else dtype.name
