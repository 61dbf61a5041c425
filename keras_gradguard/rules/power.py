"""GG228: a power whose base does not suit its exponent."""

from keras_gradguard.rules._rule import Remedy, Rule

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
    message="`{op}` has no finite value or slope for this base",
    why=(
        "A negative base has no fractional power, and at base 0 an exponent "
        "below 1 gives a slope of Inf or NaN."
    ),
    help=(
        Remedy(
            text="take the power of the size",
            before="cost = error**1.5",
            after="cost = tf.abs(error) ** 1.5",
        ),
        Remedy(
            text="or keep the base above zero",
            before="cost = error**0.5",
            after="cost = tf.maximum(error, 1e-7) ** 0.5",
        ),
    ),
    bad=_BAD,
    good=_BAD.replace(
        "(y_true - y_pred) ** 1.5  # [power]", "tf.abs(y_true - y_pred) ** 1.5"
    ),
)
