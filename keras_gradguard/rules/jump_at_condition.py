"""GG241: a loss that picks between formulas that do not meet."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG241",
    name="jump-at-condition",
    kind="discontinuous",
    matches=lambda finding: finding.cause == "jump",
    message="the loss jumps where this condition flips",
    why=(
        "The condition has no gradient: training sees the slope of the "
        "formula that was picked and never the step to the other one. An "
        "`if`, `tf.cond` and `tf.where` are alike in this, so writing one for "
        "the other does not remove the jump."
    ),
    help=(
        Remedy(
            text="make both sides agree there: `tf.where` for `if` jumps too",
            before="error = tf.where(error > 1.0, 3.0 * error, error)",
            after="error = tf.where(error > 1.0, 3.0 * error - 2.0, error)",
        ),
        Remedy(
            text="or blend the two, so that the gradient sees the switch",
            before="value = tf.where(score > 0.5, one, other)",
            after=(
                "share = tf.sigmoid(10.0 * (score - 0.5))\n"
                "value = share * one + (1.0 - share) * other"
            ),
        ),
    ),
    bad="""\
import tensorflow as tf


def loss(y_true, y_pred):
    error = tf.abs(y_true - y_pred)
    is_far = error > 1.0  # [jump-at-condition]
    return tf.reduce_mean(tf.where(is_far, 3.0 * error, error), axis=-1)
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    error = tf.abs(y_true - y_pred)
    is_far = error > 1.0
    return tf.reduce_mean(tf.where(is_far, 3.0 * error - 2.0, error), axis=-1)
""",
)
