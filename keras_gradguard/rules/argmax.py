"""GG104: an index of the largest score instead of the scores."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import before, both, in_layer, in_loss, no, op

RULE = Rule(
    code="GG104",
    name="argmax",
    kind="disconnected",
    ops=("ArgMax", "ArgMin", "MaxPoolWithArgmax"),
    message="`{op}` returns an index without a gradient",
    why=(
        "An index is piecewise constant: a small change of the scores does "
        "not change it, so its derivative is zero or undefined."
    ),
    help=(
        Remedy(
            text="use the softmax instead of the one-hot vector",
            before="code = ops.one_hot(ops.argmax(x, axis=-1), 8)",
            after="code = ops.softmax(x)",
            when=both(op("ArgMax"), before("OneHot")),
        ),
        Remedy(
            text="use the cross-entropy of the scores; keep argmax for metrics",
            before="miss = ops.not_equal(ops.argmax(y_pred, axis=-1), labels)",
            after=(
                "miss = keras.losses.sparse_categorical_crossentropy("
                "labels, y_pred)"
            ),
            when=both(op("ArgMax"), in_loss, before("Equal", "NotEqual")),
        ),
        Remedy(
            text="use the expected index under a softmax",
            before="index = ops.argmax(y_pred, axis=-1)",
            after=(
                "share = ops.softmax(y_pred)\n"
                "classes = ops.arange(ops.shape(share)[-1])\n"
                "classes = ops.cast(classes, share.dtype)\n"
                "index = ops.sum(share * classes, axis=-1)"
            ),
            when=both(op("ArgMax"), no(before("OneHot", "Equal", "NotEqual"))),
        ),
        Remedy(
            text="sample a soft one-hot vector (Gumbel-softmax)",
            before="code = ops.one_hot(ops.argmax(x, axis=-1), 8)",
            after=(
                "uniform = keras.random.uniform(ops.shape(x), 1e-6, 1.0)\n"
                "noise = ops.cast(-ops.log(-ops.log(uniform)), x.dtype)\n"
                "code = ops.softmax(x + noise)"
            ),
            when=both(op("ArgMax"), in_layer, before("OneHot")),
        ),
        Remedy(
            text="use the expected index under a softmax of the negatives",
            before="index = ops.argmin(y_pred, axis=-1)",
            after=(
                "share = ops.softmax(-y_pred)\n"
                "classes = ops.arange(ops.shape(share)[-1])\n"
                "classes = ops.cast(classes, share.dtype)\n"
                "index = ops.sum(share * classes, axis=-1)"
            ),
            when=op("ArgMin"),
        ),
        Remedy(
            text="use the pooled values; their indices have no gradient",
            before=(
                '_, best = tf.nn.max_pool_with_argmax(image, 2, 2, "VALID")'
            ),
            after="best = ops.max_pool(image, 2)",
            when=op("MaxPoolWithArgmax"),
        ),
    ),
    bad="""\
import tensorflow as tf


def loss(y_true, y_pred):
    label = tf.argmax(y_pred, axis=-1)  # [argmax]
    return tf.reduce_mean(tf.cast(label, tf.float32) - y_true[:, 0])
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    scores = tf.nn.softmax(y_pred)
    classes = tf.cast(tf.range(tf.shape(scores)[-1]), scores.dtype)
    label = tf.reduce_sum(scores * classes, axis=-1)
    return tf.reduce_mean(tf.square(label - y_true[:, 0]))
""",
)
