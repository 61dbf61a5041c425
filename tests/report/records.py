"""Records for tests, without a training."""

import functools

from keras_gradguard.records import VariableHealth
from keras_gradguard.report.schema import Schema
from keras_gradguard.report.window import record_of


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
