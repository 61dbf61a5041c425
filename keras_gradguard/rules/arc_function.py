"""GG229: an angle from a cosine that is at its end."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import both, is_half, no, op


def _remedies(name, type_name):
    """Keeps the input of a function away from -1 and 1."""
    return tuple(
        Remedy(
            text="clip inside the range (the gradient is zero outside)",
            before=f"angle = ops.{name}(cosine)",
            after=f"angle = ops.{name}(ops.clip(cosine, -{end}, {end}))",
            when=both(op(type_name), is_its_dtype),
        )
        # The next number below 1 is 0.9995 in float16.
        for end, is_its_dtype in (("0.999", is_half), ("0.99999", no(is_half)))
    )


_BAD = """\
import tensorflow as tf


def loss(y_true, y_pred):
    angle = tf.acos(y_pred)  # [arc-function]
    return tf.reduce_mean(tf.square(y_true - angle))
"""

RULE = Rule(
    code="GG229",
    name="arc-function",
    kind="nonfinite",
    ops=("Acos", "Asin", "Acosh", "Atanh", "Atan2"),
    message="`{op}` has no finite value or derivative here",
    why=(
        "`arccos`, `arcsin` and `arctanh` are defined from -1 to 1, `arccosh` "
        "from 1, `arctan2` not at (0, 0). At the ends the derivative is "
        "infinite."
    ),
    help=(
        *_remedies("arccos", "Acos"),
        *_remedies("arcsin", "Asin"),
        *_remedies("arctanh", "Atanh"),
        Remedy(
            text="set a lower bound (the gradient is zero below it)",
            before="angle = ops.arccosh(ratio)",
            after="angle = ops.arccosh(ops.maximum(ratio, 1.001))",
            when=op("Acosh"),
        ),
        Remedy(
            text="replace the point (0, 0)",
            before="angle = ops.arctan2(up, right)",
            after=(
                "is_zero = ops.equal(ops.abs(up) + ops.abs(right), 0)\n"
                "right = ops.where(is_zero, ops.ones_like(right), right)\n"
                "angle = ops.arctan2(up, right)"
            ),
            when=op("Atan2"),
        ),
        Remedy(
            text="compare the cosines instead of the angles",
            before="error = ops.abs(angle - ops.arccos(cosine))",
            after="error = ops.abs(ops.cos(angle) - cosine)",
            when=op("Acos"),
        ),
    ),
    bad=_BAD,
    good=_BAD.replace(
        "tf.acos(y_pred)  # [arc-function]", "tf.acos(0.99 * tf.tanh(y_pred))"
    ),
)
