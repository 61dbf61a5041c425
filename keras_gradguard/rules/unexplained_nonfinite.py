"""GG230: a NaN or Inf for which no other rule has words."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import tensorflow as tf


def loss(y_true, y_pred):
    score = tf.math.ndtri(y_pred)  # [unexplained-nonfinite]
    return tf.reduce_mean(tf.square(y_true - score))
"""

RULE = Rule(
    code="GG230",
    name="unexplained-nonfinite",
    kind="nonfinite",
    matches=lambda finding: True,
    message="NaN or Inf begins here, why is not known",
    why=(
        "No rule of the catalogue knows what happens here. The line, the op "
        "and the rows are what the figures of the step show."
    ),
    help=(
        Remedy(
            text="keep the input where the op and its slope are finite",
            before="score = tf.math.ndtri(share)",
            after=(
                "share = tf.clip_by_value(share, 1e-6, 1.0 - 1e-6)\n"
                "score = tf.math.ndtri(share)"
            ),
        ),
    ),
    bad=_BAD,
    good=_BAD.replace(
        "tf.math.ndtri(y_pred)  # [unexplained-nonfinite]",
        "tf.math.ndtri(tf.sigmoid(y_pred))",
    ),
)
