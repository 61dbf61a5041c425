"""GG225: a number too large for its dtype."""

from keras_gradguard.records import Help
from keras_gradguard.rules._rule import Rule

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
        Help(
            text="let one op do both steps",
            before="tf.math.log(1.0 + tf.exp(margin))",
            after="tf.math.softplus(margin)",
        ),
        Help(
            text="the same for a sum of exponentials",
            before="tf.math.log(tf.reduce_sum(tf.exp(scores), axis=-1))",
            after="tf.reduce_logsumexp(scores, axis=-1)",
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
