"""GG190: a proved cut for which no other rule has words."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG190",
    name="unexplained-cut",
    kind="disconnected",
    matches=lambda finding: True,
    message="the gradient ends here, the cause is not known",
    why=(
        "No rule of the catalogue knows what happens here. The line, the op "
        "and the path are what the graph or the exception shows."
    ),
    help=(
        Remedy(
            text="keep the value, and pass the gradient straight by the op",
            before="value = op(scores)",
            after="value = scores + tf.stop_gradient(op(scores) - scores)",
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
