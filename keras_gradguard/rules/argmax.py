"""GG104: an index of the largest score instead of the scores."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG104",
    name="argmax",
    kind="disconnected",
    ops=("ArgMax", "ArgMin", "MaxPoolWithArgmax"),
    message="`{op}` returns an index, not a score",
    why=(
        "An index jumps from class to class: a small change of the scores "
        "does not move it, so there is no gradient to pass on."
    ),
    help=(
        Remedy(
            text="compare the scores with the labels; argmax is for metrics",
            before="labels = tf.argmax(y_pred, axis=-1)",
            after='model.compile(loss="sparse_categorical_crossentropy")',
        ),
        Remedy(
            text="or use the expected index under a softmax",
            before="index = tf.argmax(y_pred, axis=-1)",
            after=(
                "index = tf.reduce_sum(tf.nn.softmax(y_pred) * "
                "tf.range(3.0), axis=-1)"
            ),
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
    label = tf.reduce_sum(scores * tf.range(3.0), axis=-1)
    return tf.reduce_mean(tf.square(label - y_true[:, 0]))
""",
)
