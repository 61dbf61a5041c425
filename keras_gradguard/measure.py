"""Step 3 of 5: from statistics to the health of each variable."""

import collections
import math

import numpy as np

from keras_gradguard.capture import MISSING, UNMEASURED
from keras_gradguard.optimizer_health import OptimizerHealth
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


def health(variable, path, figures=None, step=None, ratio=None):
    """Returns the `VariableHealth` of one measured gradient.

    Args:
        variable: The Keras variable.
        path: Its unique path.
        figures: A row of `statistics.statistics`, `capture.MISSING` for no
            gradient, `None` if it was not measured.
        step: Step of the measurement.
        ratio: Norm of the update over that of the weight, or `None`.
    """
    known = {}
    if figures is None:
        status = "unknown"
    elif figures is MISSING or figures[0] == MISSING:
        status = "missing"
    else:
        norm, largest, mean, zero_share, num_nonfinite = map(float, figures)
        status = _status(norm, largest, num_nonfinite)
        known = {
            "norm": norm,
            "largest": largest,
            "mean": mean,
            "zero_share": zero_share,
            "num_nonfinite": int(num_nonfinite),
        }
        if ratio is not None and ratio != UNMEASURED:
            known["update_ratio"] = float(ratio)
    return VariableHealth(
        path=path,
        shape=tuple(variable.shape),
        dtype=_dtype_name(variable),
        status=status,
        step=step,
        **known,
    )


def optimizer_health(name, capture, paths, num_replicas=1):
    """Returns the `OptimizerHealth` of one optimizer.

    Args:
        name: Its name.
        capture: Its `OptimizerCapture`.
        paths: Paths of its variables.
        num_replicas: How many replicas train.
    """
    treatment = capture.treatment
    known = treatment.read()
    gradient = "batch" if treatment.accumulation_steps == 1 else "micro-batch"
    if num_replicas > 1:
        is_clipped = treatment.clip is not None
        gradient = "sum over replicas" + is_clipped * ", clipped"
    scale = float(capture.optimizer.scale_loss(1.0))
    clip = treatment.clip
    return OptimizerHealth(
        name=name,
        variables=tuple(paths),
        gradient=gradient,
        accumulation_steps=treatment.accumulation_steps,
        loss_scale=scale if treatment.is_scaled or scale != 1 else None,
        num_skipped=known["num_skipped"],
        clipping=None if clip is None else f"{clip[0]}={clip[1]}",
        clipped_share=known["clipped_share"],
    )


def optimizer_numbers(optimizers):
    """Returns what is drawn of optimizers: numbers by tag.

    Args:
        optimizers: `OptimizerHealth`s; the name of each is part of the tag
            where there are several.
    """
    numbers = {}
    for optimizer in optimizers:
        own = f"{optimizer.name}/" if len(optimizers) > 1 else ""
        for field in ("loss_scale", "num_skipped", "clipped_share"):
            value = getattr(optimizer, field)
            if value is not None:
                numbers[f"{own}{field}"] = value
    return numbers


def global_norm(norms):
    """Returns the L2 norm over all gradients that are there, or `None`.

    Args:
        norms: Their norms, of those that are there.
    """
    present = np.asarray(norms, np.float64)
    if not present.size:
        return None
    # Of NaN and Inf, too, it is what Python makes of them: NaN is worse.
    return float(np.sqrt(np.square(present).sum()))


def _status(norm, largest, num_nonfinite):
    if num_nonfinite or not math.isfinite(norm):
        return "nonfinite"
    return "zero" if largest == 0 else "ok"


def _dtype_name(variable):
    dtype = variable.dtype
    return dtype if isinstance(dtype, str) else dtype.name
