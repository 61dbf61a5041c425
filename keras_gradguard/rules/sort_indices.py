"""GG111: the order of the scores instead of the scores."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import before, both, calls, no

_picks = before("GatherV2", "GatherNd")

RULE = Rule(
    code="GG111",
    name="sort-indices",
    kind="disconnected",
    ops=("TopKV2", "TopK", "ApproxTopK"),
    message="sort indices have no gradient; sorted values do",
    why=(
        "The indices from `argsort` and `top_k` are piecewise constant: a "
        "small change of the scores does not change them."
    ),
    help=(
        Remedy(
            text="use the values that top_k returns",
            before="_, best = ops.top_k(y_pred, k=2)",
            after="best, _ = ops.top_k(y_pred, k=2)",
            when=both(no(calls("argsort")), no(_picks)),
        ),
        Remedy(
            text="use a soft rank: how many scores lie below this one",
            before="rank = ops.argsort(ops.argsort(y_pred))",
            after=(
                "gaps = y_pred[..., :, None] - y_pred[..., None, :]\n"
                "rank = ops.sum(ops.sigmoid(gaps), axis=-1) - 0.5"
            ),
            when=calls("argsort"),
        ),
        Remedy(
            text="use the sorted values",
            before="order = ops.argsort(y_pred)",
            after="order = ops.sort(y_pred)",
            when=both(calls("argsort"), no(_picks)),
        ),
        Remedy(
            text="weight all elements by a softmax instead of picking some",
            before=(
                "best = ops.top_k(y_pred, k=1)[1]\n"
                "picked = ops.take_along_axis(y_true, best, axis=-1)"
            ),
            after=(
                "share = ops.softmax(y_pred, axis=-1)\n"
                "picked = ops.sum(share * y_true, axis=-1, keepdims=True)"
            ),
            when=_picks,
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
