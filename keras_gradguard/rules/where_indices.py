"""GG113: the positions where a condition on the scores holds."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG113",
    name="where-indices",
    kind="disconnected",
    ops=("Where",),
    matches=lambda finding: (
        finding.op == "Where" or "Where" in finding.chain[:3]
    ),
    message="positions are used, not the scores found there",
    why=(
        "`tf.where` with one argument and the mask of `tf.boolean_mask` give "
        "row numbers; a small change of the scores does not move them."
    ),
    help=(
        Remedy(
            text="weight by the score instead of picking by it",
            before="picked = tf.boolean_mask(cost, y_pred > 0.5)",
            after="picked = cost * tf.sigmoid(10.0 * (y_pred - 0.5))",
        ),
        Remedy(
            text="or pick the scores themselves",
            before="picked = tf.where(y_pred > 0.5)",
            after="picked = tf.boolean_mask(y_pred, y_pred > 0.5)",
        ),
    ),
    bad="""\
import tensorflow as tf


def loss(y_true, y_pred):
    found = tf.where(y_pred > 0.5)  # [where-indices]
    return tf.reduce_sum(1.0 - tf.gather_nd(y_true, found))
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    found = tf.sigmoid(10.0 * (y_pred - 0.5))
    return tf.reduce_sum(found * (1.0 - y_true) + (1.0 - found) * y_true)
""",
)
