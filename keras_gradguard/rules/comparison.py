"""GG102: a condition on the scores instead of the scores."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG102",
    name="comparison",
    kind="disconnected",
    ops=(
        "Greater",
        "GreaterEqual",
        "Less",
        "LessEqual",
        "Equal",
        "NotEqual",
        "ApproximateEqual",
        "LogicalAnd",
        "LogicalOr",
        "LogicalNot",
        "IsNan",
        "IsInf",
        "IsFinite",
        "InTopK",
        "InTopKV2",
    ),
    message="`{op}` turns numbers into true and false",
    why=(
        "True and false cannot change by a little, so there is no gradient; "
        "a cast back to float32 does not restore one."
    ),
    help=(
        Remedy(
            text="keep the score soft in the loss; thresholds are for metrics",
            before="hard = tf.cast(y_pred > 0.5, tf.float32)",
            after="soft = tf.sigmoid(10.0 * (y_pred - 0.5))",
        ),
        Remedy(
            text="to choose between two values, let both carry the gradient",
            before="error = tf.cast(error > 1.0, tf.float32)",
            after="error = tf.where(error > 1.0, error, tf.square(error))",
        ),
    ),
    bad="""\
import tensorflow as tf


def loss(y_true, y_pred):
    hard = tf.cast(y_pred > 0.5, tf.float32)  # [comparison]
    return tf.reduce_mean(tf.abs(y_true - hard))
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    soft = tf.sigmoid(10.0 * (y_pred - 0.5))
    return tf.reduce_mean(tf.abs(y_true - soft))
""",
)
