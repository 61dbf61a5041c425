"""Curves and histograms for TensorBoard's own pages."""

import math

import numpy as np
from tensorboard.compat.proto import types_pb2
from tensorboard.plugins.histogram import metadata

from keras_gradguard.records.norms import MISSING, UNMEASURED

# A tag of the scalars would make TensorBoard lose both.
GROUP = "gradient_histograms"


def add_histograms(summary, histograms):
    """Adds histograms to a summary.

    Args:
        summary: A `Summary` of TensorBoard.
        histograms: By name a float array `[2 + bins]`: the ends, and the
            number of elements in each bin; one without any is left out.
    """
    known = metadata.create_summary_metadata(None, None)
    for name, row in histograms.items():
        low, high, *counts = np.asarray(row, np.float64)
        if not any(counts):
            continue
        edges = np.linspace(low, high, len(counts) + 1)
        bins = np.stack([edges[:-1], edges[1:], counts], axis=1)
        value = summary.value.add(tag=f"{GROUP}/{name}", metadata=known)
        value.tensor.dtype = types_pb2.DT_DOUBLE
        for size in bins.shape:
            value.tensor.tensor_shape.dim.add(size=size)
        value.tensor.tensor_content = bins.astype("<f8").tobytes()


RUN = "gradients"
LEVELS = ("variables", "layers", "global")
HISTOGRAMS = "histograms"
LARGEST = 3.4028234e38  # of float32, which is what a scalar holds
_COUNTS = ("count_missing", "count_zero", "count_nonfinite")


def checked_level(scalars, has_histograms=True):
    """Returns `scalars` if it is one of `LEVELS`, or `HISTOGRAMS`.

    Args:
        scalars: What the user has given.
        has_histograms: Whether `HISTOGRAMS` may be given.

    Raises:
        ValueError: If it is none of them.
    """
    if scalars in LEVELS or (has_histograms and scalars == HISTOGRAMS):
        return scalars
    more = ', or "histograms" ("variables" and a histogram of each gradient)'
    raise ValueError(
        "`scalars` selects the curves on TensorBoard's own pages and must be "
        'one of "variables" (the norm of each gradient), "layers" (one norm '
        'per layer), "global" (the global norm, and how many gradients are '
        f"missing, zero or not finite){more if has_histograms else ''}. The "
        f"Gradients tab always has all norms. Received: scalars={scalars!r}"
    )


def scalar_tags(schema, level, measured, others=()):
    """Returns the tags of the scalars of a record, unique, in order.

    Args:
        schema: The `Schema`.
        level: One of `LEVELS`.
        measured: For each row of the schema whether it was measured.
        others: Names of further numbers.
    """
    names = ["global_norm", *_COUNTS, *others]
    names += [name for name, _ in _shown(schema, level, measured)]
    tags = {}
    for name in names:
        tag, number = f"{RUN}/{name}", 1
        while tag in tags:
            number += 1
            tag = f"{RUN}/{name}#{number}"
        tags[tag] = None
    return tuple(tags)


def scalar_values(schema, level, record, others=()):
    """Returns the values of the scalars, in the order of `scalar_tags`.

    What is no finite number is NaN: TensorBoard marks such a step with a
    triangle instead of a point, while Inf would ruin the whole chart. The
    counts tell which it was.

    Args:
        schema: The `Schema`.
        level: One of `LEVELS`.
        record: The `Record` of one step.
        others: Further numbers.
    """
    norms = np.asarray(record.norms, np.float64)
    is_missing, is_zero = norms == MISSING, norms == 0
    values = [
        drawable(record.global_norm),
        float(is_missing.sum()),
        float(is_zero.sum()),
        float((~np.isfinite(norms)).sum()),
        *map(drawable, others),
    ]
    if level == "variables":
        norms = norms[norms != UNMEASURED]
        is_drawn = np.isfinite(norms) & (norms >= 0)
        drawn = np.where(is_drawn, np.minimum(norms, LARGEST), np.nan)
        return [*values, *drawn.tolist()]
    shown = _shown(schema, level, norms != UNMEASURED)
    return values + [_norm_of_layer(norms[rows]) for _, rows in shown]


def drawable(value):
    """Returns a value as a chart can show it.

    Args:
        value: A number, `MISSING` or `None`.
    """
    if value is None or not math.isfinite(value) or value == MISSING:
        return math.nan
    return float(min(value, LARGEST))


def _shown(schema, level, measured):
    """Name and rows of each series that is drawn."""
    if level == "variables":
        rows = enumerate(schema.keys)
        return [(key, [n]) for n, key in rows if measured[n]]
    if level == "layers":
        groups = schema.groups.items()
        kept = [(k, [n for n in rows if measured[n]]) for k, rows in groups]
        return [(layer, rows) for layer, rows in kept if rows]
    return []


def _norm_of_layer(norms):
    """The norm over the gradients of a layer that are there."""
    present = norms[norms != MISSING]
    if not present.size or not np.isfinite(present).all():
        return math.nan
    return min(math.hypot(*present.tolist()), LARGEST)
