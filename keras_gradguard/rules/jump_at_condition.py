"""GG241: a loss that picks between formulas that do not meet."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import before, no

RULE = Rule(
    code="GG241",
    name="jump-at-condition",
    kind="discontinuous",
    matches=lambda finding: finding.cause == "jump",
    message="the loss jumps where this condition flips",
    why=(
        "A condition has no gradient: backpropagation uses only the derivative "
        "of the selected side and ignores the jump. This holds for `if`, "
        "`tf.cond` and `where`."
    ),
    help=(
        Remedy(
            text="use a sigmoid as a soft threshold",
            before='hard = ops.cast(y_pred > 0.5, "float32")',
            after="hard = ops.sigmoid(10.0 * (y_pred - 0.5))",
            when=before("Cast"),
        ),
        Remedy(
            text="make both sides equal at the threshold",
            before="ops.where(is_far, 3.0 * error, error)",
            after="ops.where(is_far, 3.0 * error - 2.0, error)",
            when=no(before("Cast")),
        ),
        Remedy(
            text="blend both sides with a sigmoid",
            before="value = ops.where(y_pred > 0.5, one, other)",
            after=(
                "share = ops.sigmoid(10.0 * (y_pred - 0.5))\n"
                "value = share * one + (1.0 - share) * other"
            ),
            when=no(before("Cast")),
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
