"""GG190: a proved cut that no other rule explains."""

from keras_gradguard.rules._rule import Remedy, Rule


def _keeps_dtype(finding):
    return finding.input_dtypes[:1] == (finding.output_dtype,)


RULE = Rule(
    code="GG190",
    name="unexplained-cut",
    kind="disconnected",
    matches=lambda finding: True,
    message="the gradient ends here for an unknown reason",
    why=(
        "No rule of the catalogue covers this case. The line, the op and the "
        "path come from the graph or the exception."
    ),
    help=(
        Remedy(
            text=(
                "rewrite the line with ops that have a gradient; report the "
                "case"
            ),
        ),
        Remedy(
            text=(
                "a straight-through estimator helps only if the output of the "
                "op is close to its input"
            ),
            when=_keeps_dtype,
        ),
    ),
    bad="""\
import tensorflow as tf


def loss(y_true, y_pred):
    gap = y_true - y_pred
    bits = tf.bitcast(gap, tf.int32)  # [unexplained-cut]
    size = tf.bitcast(bits & 0x7FFFFFFF, tf.float32)
    return tf.reduce_mean(size)
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    gap = y_true - y_pred
    size = tf.abs(gap)
    return tf.reduce_mean(size)
""",
)
