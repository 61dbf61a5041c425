"""GG125: weights that are added up by a count."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG125",
    name="weighted-count",
    kind="no_gradient_registered",
    ops=("Bincount", "DenseBincount", "SparseBincount", "RaggedBincount"),
    message="`{op}` has no gradient for its weights",
    why=(
        "`tf.math.bincount` has no registered gradient, not even for its "
        "weights, so TensorFlow raises LookupError."
    ),
    help=(
        Remedy(
            text="add up the weights with segment_sum",
            before="total = ops.bincount(bins, weights=scores, minlength=3)",
            after="total = ops.segment_sum(scores, bins, 3)",
        ),
    ),
    bad="""\
import tensorflow as tf


def loss(y_true, y_pred):
    bins = tf.argmax(y_true, axis=-1, output_type=tf.int32)
    scores = y_pred[:, 0]
    total = tf.math.bincount(bins, scores, 3)  # [weighted-count]
    return tf.reduce_mean(tf.square(total - 1.0))
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    bins = tf.argmax(y_true, axis=-1, output_type=tf.int32)
    scores = y_pred[:, 0]
    total = tf.math.unsorted_segment_sum(scores, bins, 3)
    return tf.reduce_mean(tf.square(total - 1.0))
""",
)
