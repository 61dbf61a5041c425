"""GG230: a NaN or Inf that no other rule explains."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import both, no, op


def _has_op(finding):
    return finding.op is not None


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
    message="NaN or Inf, reason unknown",
    why=(
        "No rule covers the op, or the step could not be looked into. A line, "
        "an op and rows, if any are shown, come from the values of the step."
    ),
    help=(
        Remedy(
            text="clip inside the range (the gradient is zero outside)",
            before="score = tf.math.ndtri(share)",
            after=(
                "share = ops.clip(share, 1e-4, 1.0 - 1e-4)\n"
                "score = tf.math.ndtri(share)"
            ),
            when=op("Ndtri"),
        ),
        Remedy(
            text="replace zero: the angle of 0 has no derivative",
            before="phase = ops.angle(number)",
            after=(
                "is_zero = ops.equal(ops.abs(number), 0.0)\n"
                "number = ops.where(is_zero, ops.ones_like(number), number)\n"
                "phase = ops.angle(number)"
            ),
            when=op("Angle"),
        ),
        Remedy(
            text="inspect the inputs of the op, and report the case",
            when=both(_has_op, no(op("Ndtri", "Angle"))),
        ),
    ),
    bad=_BAD,
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    share = tf.clip_by_value(tf.sigmoid(y_pred), 1e-4, 1.0 - 1e-4)
    score = tf.math.ndtri(share)
    return tf.reduce_mean(tf.square(y_true - score))
""",
)
