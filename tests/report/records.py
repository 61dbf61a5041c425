"""Records for tests, without a training."""

import functools

import numpy as np

from keras_gradguard.records.health import VariableHealth
from keras_gradguard.records.norms import MISSING, UNMEASURED
from keras_gradguard.report.layout import Schema
from keras_gradguard.report.thinning import Record


def rows_of(norms, step, ratios=None):
    """Returns the rows of a step.

    Args:
        norms: Norm by path, `None` for a gradient that is missing.
        step: The step.
        ratios: Update ratio by path, or `None`.
    """
    return [
        VariableHealth(
            path=path,
            shape=(2,),
            dtype="float32",
            status="missing" if norm is None else "ok",
            norm=norm,
            step=step,
            update_ratio=(ratios or {}).get(path),
        )
        for path, norm in norms.items()
    ]


@functools.cache
def schema_of(paths):
    """Returns the same `Schema` for the same paths."""
    return Schema(rows_of(dict.fromkeys(paths), 0))


def write_norms(writer, step, global_norm, norms, numbers=None, ratios=None):
    """Writes one record, see `rows_of`."""
    record = record_of(rows_of(norms, step, ratios), step, global_norm)
    writer.write_record(schema_of(tuple(norms)), record, numbers)


def record_of(rows, step, global_norm):
    """Returns the `Record` of one step.

    Args:
        rows: A `VariableHealth` for each variable; one of another step was
            not measured in this one.
        step: The step.
        global_norm: Norm over all gradients, or `None`.
    """
    ratios = (row.update_ratio for row in rows)
    return Record(
        first_step=step,
        step=step,
        norms=_vector(_cell(row, step) for row in rows),
        updates=_vector(UNMEASURED if r is None else r for r in ratios),
        global_norm=MISSING if global_norm is None else global_norm,
    )


def _cell(row, step):
    if row.step != step:
        return UNMEASURED
    return MISSING if row.norm is None else row.norm


def _vector(numbers):
    """Numbers as float32; one that is too large is not Inf by that."""
    found = np.array(list(numbers), np.float64)
    limit = np.finfo(np.float32).max
    return np.where(np.isinf(found), found, np.minimum(found, limit)).astype(
        np.float32
    )
