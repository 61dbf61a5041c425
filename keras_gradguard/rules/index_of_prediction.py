"""GG123: a prediction made a whole number that picks rows of a table."""

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
    message="a prediction is used as a row number",
    why=(
        "`tf.gather` and `Embedding` take whole numbers and give the rows "
        "there; a small change of the prediction picks the same rows."
    ),
    help=(
        Remedy(
            text="weigh all rows by how near they are",
            before="row = tf.gather(TABLE, tf.cast(y_pred[:, 0], tf.int32))",
            after=(
                "distance = y_pred[:, :1] - tf.range(4.0)\n"
                "share = tf.nn.softmax(-tf.square(distance))\n"
                "row = tf.matmul(share, TABLE)"
            ),
        ),
        Remedy(
            text="or go straight from each row to the next one",
            before="row = tf.gather(TABLE, tf.cast(y_pred[:, 0], tf.int32))",
            after=(
                "low = tf.floor(tf.clip_by_value(y_pred[:, 0], 0.0, 2.0))\n"
                "share = (y_pred[:, 0] - low)[:, tf.newaxis]\n"
                "at = tf.cast(low, tf.int32)\n"
                "row = (1.0 - share) * tf.gather(TABLE, at)\n"
                "row += share * tf.gather(TABLE, at + 1)"
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
    share = tf.nn.softmax(-tf.square(level - tf.range(4.0)))
    row = tf.matmul(share, TABLE)
    return tf.reduce_mean(tf.square(row - y_true))
""",
)
