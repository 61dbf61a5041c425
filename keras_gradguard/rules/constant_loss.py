"""GG209: a loss from which the prediction cancels out."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import tensorflow as tf


def loss(y_true, y_pred):
    margin = y_pred[:, 0] - y_pred[:, 0]  # [constant-loss]
    return tf.reduce_mean(tf.math.softplus(margin))


EPOCHS = 8
"""

RULE = Rule(
    code="GG209",
    name="constant-loss",
    kind="zero",
    matches=lambda finding: finding.cause == "constant_loss",
    message="the prediction cancels out of the loss",
    why=(
        "The prediction enters in several places whose slopes add up to "
        "zero, so the loss keeps its value whatever is predicted."
    ),
    help=(
        Remedy(
            text="compare two values that differ",
            before="margin = y_pred[:, 0] - y_pred[:, 0]",
            after="margin = y_pred[:, 1] - y_pred[:, 0]",
        ),
        Remedy(
            text="bring in the labels",
            before="total = tf.reduce_sum(tf.nn.softmax(y_pred), axis=-1)",
            after=(
                "share = tf.nn.softmax(y_pred)\n"
                "total = tf.reduce_sum(y_true * share, axis=-1)"
            ),
        ),
    ),
    bad=_BAD,
    good=_BAD.replace(
        "y_pred[:, 0] - y_pred[:, 0]  # [constant-loss]",
        "y_pred[:, 1] - y_pred[:, 0]",
    ),
)
