"""GG225: a number too large for its dtype."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import tensorflow as tf


def loss(y_true, y_pred):
    margin = 1000.0 * y_pred * (1.0 - 2.0 * y_true)
    odds = tf.exp(margin)  # [overflow]
    return tf.reduce_mean(tf.math.log(1.0 + odds))
"""

RULE = Rule(
    code="GG225",
    name="overflow",
    kind="nonfinite",
    ops=("Exp", "Expm1", "Cosh", "Sinh", "Pow", "Square", "Mul", "Cast"),
    matches=lambda finding: finding.cause == "overflow",
    message="`{op}` makes Inf out of finite numbers",
    why=(
        "float32 ends at 3.4e38 and float16 at 65504; `exp` passes them at 89 "
        "and 12. Inf minus Inf or Inf times 0 is then NaN."
    ),
    help=(
        Remedy(
            text="use the op that never holds the exponential itself",
            before="tf.math.log(1.0 + tf.exp(margin))",
            after="tf.math.softplus(margin)",
        ),
        Remedy(
            text="or compute in float32, on numbers of ordinary size",
            before="error = tf.square(tf.cast(pixels, tf.float16))",
            after="error = tf.square(tf.cast(pixels, tf.float32) / 255.0)",
        ),
    ),
    bad=_BAD,
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    margin = 1000.0 * y_pred * (1.0 - 2.0 * y_true)
    return tf.reduce_mean(tf.math.softplus(margin))
""",
)
