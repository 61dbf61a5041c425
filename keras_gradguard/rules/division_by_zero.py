"""GG224: a division by zero or by next to nothing."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import both, op


def _is_by_zero(finding):
    value = finding.evidence.get("value")
    return not isinstance(value, list) or value[-1] == 0


_BAD = """\
import tensorflow as tf


def loss(y_true, y_pred):
    error = (y_true - y_pred) / y_true  # [division-by-zero]
    return tf.reduce_mean(tf.abs(error))
"""

RULE = Rule(
    code="GG224",
    name="division-by-zero",
    kind="nonfinite",
    ops=(
        "RealDiv",
        "Div",
        "Reciprocal",
        "Inv",
        "FloorDiv",
        "TruncateDiv",
        "Xdivy",
        "Mod",
        "FloorMod",
        "TruncateMod",
    ),
    message="`{op}` divides by zero or nearly zero",
    why=(
        "A division by 0 gives Inf or NaN, and so does its derivative. A tiny "
        "divisor can make the result too large for its dtype."
    ),
    help=(
        Remedy(
            text="return zero for a division by zero",
            before="error = gap / y_true",
            after="error = ops.divide_no_nan(gap, y_true)",
            when=both(op("RealDiv", "Div"), _is_by_zero),
        ),
        Remedy(
            text="return zero for the reciprocal of zero",
            before="factor = ops.reciprocal(y_true)",
            after="factor = ops.divide_no_nan(1.0, y_true)",
            when=op("Reciprocal", "Inv"),
        ),
        Remedy(
            text="keep the divisor away from zero",
            before="error = gap / y_true",
            after=(
                "safe = ops.where(ops.abs(y_true) < 0.1, 0.1, y_true)\n"
                "error = gap / safe"
            ),
            when=op("RealDiv", "Div"),
        ),
        Remedy(
            text="keep the divisor away from zero",
            before="rest = gap % y_true",
            after=(
                "safe = ops.where(ops.abs(y_true) < 0.1, 0.1, y_true)\n"
                "rest = gap % safe"
            ),
            when=op("Mod", "FloorMod", "TruncateMod"),
        ),
    ),
    bad=_BAD,
    good=_BAD.replace(
        "(y_true - y_pred) / y_true  # [division-by-zero]",
        "tf.math.divide_no_nan(y_true - y_pred, y_true)",
    ),
)
