"""GG228: a power of a negative or zero base."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import first_value


def _is_zero(finding):
    return first_value(finding) == 0


_BAD = """\
import tensorflow as tf


def loss(y_true, y_pred):
    cost = (y_true - y_pred) ** 1.5  # [power]
    return tf.reduce_mean(cost)
"""

RULE = Rule(
    code="GG228",
    name="power",
    kind="nonfinite",
    ops=("Pow",),
    message="`{op}` has no finite value or derivative for this base",
    why=(
        "A fractional power of a negative base is NaN, and at base 0 an "
        "exponent below 1 has an infinite derivative."
    ),
    help=(
        Remedy(
            text="take the power of the absolute value",
            before="cost = error**1.5",
            after="cost = ops.abs(error) ** 1.5",
            when=lambda finding: not _is_zero(finding),
        ),
        Remedy(
            text="set a lower bound (the gradient is zero below it)",
            before="cost = size**0.5",
            after="cost = ops.maximum(size, 1e-6) ** 0.5",
            when=_is_zero,
        ),
    ),
    bad=_BAD,
    good=_BAD.replace(
        "(y_true - y_pred) ** 1.5  # [power]", "tf.abs(y_true - y_pred) ** 1.5"
    ),
)
