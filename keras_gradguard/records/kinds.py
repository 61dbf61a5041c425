"""Schema, kinds, severities, statuses, verdicts."""

import math

STATUSES = (
    *("ok", "missing", "zero", "nonfinite"),
    *("vanishing", "exploding", "unknown"),
)
BROKEN, HEALTHY = "broken", "healthy"
UNDECIDED, NOT_CHECKED = "undecided", "not checked"
VERDICTS = (BROKEN, HEALTHY, UNDECIDED, NOT_CHECKED)

SCHEMA = 1

KINDS = (
    "untraceable",
    "disconnected",
    "no_gradient_registered",
    "unused",
    "zero",
    "nonfinite",
    "vanishing",
    "exploding",
    "discontinuous",
    "underflow",
    "not_applied",
    "wrong",
)
# Where a variable gets no gradient, or one of zeros.
WITHOUT_GRADIENT = KINDS[:5]
SEVERITIES = ("error", "warning", "note")

# A copy of weights or of a batch takes no more than this, in memory or on
# disk.
MOST_BYTES = 256 * 2**20


def severity_of(num_hit, num_variables):
    """Returns how bad a finding is: an error where no variable learns.

    Args:
        num_hit: How many trainable variables it hits.
        num_variables: How many there are.
    """
    return "error" if num_hit == num_variables else "warning"


# The square of a larger number leaves float32: the root of its largest one.
LARGEST_ROOT = math.sqrt(3.4028234663852886e38)
