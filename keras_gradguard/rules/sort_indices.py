"""GG111: the order of the scores instead of the scores."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG111",
    name="sort-indices",
    kind="disconnected",
    ops=("TopKV2", "TopK", "ApproxTopK"),
    message="the order of the scores is used, not the scores",
    why=(
        "`tf.argsort` and the indices of `tf.math.top_k` are positions; a "
        "small change of the scores does not move them. Sorted values do "
        "carry a gradient."
    ),
    help=(
        Remedy(
            text="use the sorted values",
            before="order = tf.argsort(y_pred)",
            after="values = tf.sort(y_pred)",
        ),
        Remedy(
            text="or a soft rank: how many scores lie below this one",
            before="rank = tf.argsort(tf.argsort(y_pred))",
            after=(
                "gaps = y_pred[:, :, None] - y_pred[:, None, :]\n"
                "rank = tf.reduce_sum(tf.sigmoid(gaps), axis=-1) - 0.5"
            ),
        ),
    ),
    bad="""\
import tensorflow as tf


def loss(y_true, y_pred):
    order = tf.argsort(y_pred)  # [sort-indices]
    rank = tf.cast(tf.argsort(order), tf.float32)
    return tf.reduce_mean(tf.square(2.0 * y_true - rank))
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    gaps = y_pred[:, :, None] - y_pred[:, None, :]
    rank = tf.reduce_sum(tf.sigmoid(gaps), axis=-1) - 0.5
    return tf.reduce_mean(tf.square(2.0 * y_true - rank))
""",
)
