"""What one norm value says of one variable, and the worst of several.

It is the L2 norm of a gradient, not below 0; `MISSING` where there is no
gradient, `UNMEASURED` where the step did not measure it; NaN and Inf are
themselves.
"""

import numpy as np

MISSING = -1.0
UNMEASURED = -2.0
# What is worse than any norm, the worst last, as numbers that compare.
_RANKS = ((MISSING, 1e300), (np.inf, 2e300), (np.nan, 3e300))


def worst(values, starts=None):
    """Returns the worst value of each window: a spike of one step survives.

    NaN is worse than Inf, Inf than a missing gradient, and that than any
    norm; of norms the largest is.

    Args:
        values: Float array `[records, ...]`.
        starts: Index of the first record of each window, ascending from 0;
            by default one window holds them all.

    Returns:
        A float32 array `[windows, ...]`.
    """
    values = np.asarray(values, np.float32)
    starts = [0] if starts is None else starts
    if np.isfinite(values).all() and not (values == MISSING).any():
        return np.maximum.reduceat(values, starts)
    ranked = values.astype(np.float64)
    for known, rank in _RANKS:
        is_it = np.isnan(ranked) if np.isnan(known) else ranked == known
        ranked[is_it] = rank
    found = np.maximum.reduceat(ranked, starts)
    for known, rank in _RANKS:
        found[found == rank] = known
    return found.astype(np.float32)
