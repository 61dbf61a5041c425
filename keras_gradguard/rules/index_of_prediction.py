"""GG123: a prediction cast to an integer that selects rows."""

from keras_gradguard.rules._rule import Remedy, Rule

# The last op of a chain is the one that has the index for an input.
_GATHERS = {
    "Gather",
    "GatherV2",
    "GatherNd",
    "ResourceGather",
    "ResourceGatherNd",
}


def _matches(finding):
    is_index = finding.op in RULE.ops and "Cast" in finding.chain
    return is_index and finding.chain[-1] in _GATHERS


RULE = Rule(
    code="GG123",
    name="index-of-prediction",
    kind="disconnected",
    ops=("Cast", "Round", "Rint", "Floor", "Ceil"),
    matches=_matches,
    message="a prediction is used as a row index",
    why=(
        "`gather` and `Embedding` take integer indices: a small change of the "
        "prediction selects the same rows."
    ),
    help=(
        Remedy(
            text="weight all rows by their distance to the value",
            before='row = ops.take(TABLE, ops.cast(level, "int32"), axis=0)',
            after=(
                "rows = ops.arange(ops.shape(TABLE)[0])\n"
                "rows = ops.cast(rows, level.dtype)\n"
                "share = ops.softmax(-ops.square(level[..., None] - rows))\n"
                "row = ops.matmul(share, TABLE)"
            ),
        ),
        Remedy(
            text="interpolate between the two nearest rows",
            before='row = ops.take(TABLE, ops.cast(level, "int32"), axis=0)',
            after=(
                "last = ops.cast(ops.shape(TABLE)[0] - 2, level.dtype)\n"
                "low = ops.maximum(ops.minimum(ops.floor(level), last), 0.0)\n"
                "share = (level - low)[..., None]\n"
                'at = ops.cast(low, "int32")\n'
                "row = (1.0 - share) * ops.take(TABLE, at, axis=0)\n"
                "row += share * ops.take(TABLE, at + 1, axis=0)"
            ),
        ),
    ),
    bad="""\
import tensorflow as tf

TABLE = tf.constant([[1.0], [2.0], [4.0], [8.0]])


def loss(y_true, y_pred):
    level = 3.0 * tf.sigmoid(y_pred[:, :1])
    number = tf.cast(level[:, 0], tf.int32)  # [index-of-prediction]
    row = tf.gather(TABLE, number)
    return tf.reduce_mean(tf.square(row - y_true))
""",
    good="""\
import tensorflow as tf

TABLE = tf.constant([[1.0], [2.0], [4.0], [8.0]])


def loss(y_true, y_pred):
    level = 3.0 * tf.sigmoid(y_pred[:, :1])
    rows = tf.cast(tf.range(tf.shape(TABLE)[0]), level.dtype)
    share = tf.nn.softmax(-tf.square(level - rows))
    row = tf.matmul(share, tf.cast(TABLE, level.dtype))
    return tf.reduce_mean(tf.square(row - y_true))
""",
)
