"""GG229: an angle from a cosine that is at its end."""

from keras_gradguard.rules._rule import Remedy, Rule

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
    message="`{op}` has no finite value or slope for this input",
    why=(
        "`acos`, `asin` and `atanh` end at -1 and 1, `acosh` begins at 1, and "
        "`atan2` has no direction at (0, 0). The slope there is not finite."
    ),
    help=(
        Remedy(
            text="keep the input inside the range, not only up to its end",
            before="angle = tf.acos(cosine)",
            after=(
                "angle = tf.acos(tf.clip_by_value(cosine, -0.999999, 0.999999))"
            ),
        ),
        Remedy(
            text="or compare the cosines instead of the angles",
            before="error = tf.abs(angle - tf.acos(cosine))",
            after="error = tf.abs(tf.cos(angle) - cosine)",
        ),
    ),
    bad=_BAD,
    good=_BAD.replace(
        "tf.acos(y_pred)  # [arc-function]", "tf.acos(0.99 * tf.tanh(y_pred))"
    ),
)
