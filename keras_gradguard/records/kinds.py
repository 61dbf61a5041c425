"""Schema, kinds, severities, statuses."""

STATUSES = ("ok", "missing", "zero", "nonfinite", "unknown")

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
SEVERITIES = ("error", "warning", "note")
