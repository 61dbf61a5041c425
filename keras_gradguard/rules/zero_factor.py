"""GG206: a mask or weight that is zero on the whole batch."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import lines

_BAD = """\
import tensorflow as tf

PADDING = -1.0


def loss(y_true, y_pred):
    padded = tf.equal(y_true, PADDING)  # [zero-factor]
    mask = tf.cast(padded, y_pred.dtype)
    error = mask * tf.square(y_true - y_pred)
    return tf.reduce_mean(error)


EPOCHS = 8
"""

RULE = Rule(
    code="GG206",
    name="zero-factor",
    kind="zero",
    matches=lambda finding: finding.cause == "zero_factor",
    message="the gradient is multiplied by zero",
    why=(
        "The gradient of a product is multiplied by the other factor. A mask "
        "or a weight that is zero everywhere makes it zero."
    ),
    help=(
        Remedy(
            text="invert the mask if it is the wrong way round",
            before='mask = ops.cast(ops.equal(y_true, PADDING), "float32")',
            after='mask = ops.cast(ops.not_equal(y_true, PADDING), "float32")',
            when=lines("mask|equal"),
        ),
        Remedy(text="print the other factor: it is zero on the whole batch"),
    ),
    bad=_BAD,
    good=_BAD.replace("tf.equal", "tf.not_equal").replace(
        "  # [zero-factor]", ""
    ),
)
