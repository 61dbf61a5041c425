"""GG209: a loss from which the prediction cancels out."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import no, op

_is_softmax = op("Softmax", "LogSoftmax")


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
        "The prediction is used in several places whose gradients cancel, as "
        "in `a - a` or in the sum of a softmax, which is always 1."
    ),
    help=(
        Remedy(
            text="use two different values",
            before="margin = y_pred[:, 0] - y_pred[:, 0]",
            after="margin = y_pred[:, 1] - y_pred[:, 0]",
            when=no(_is_softmax),
        ),
        Remedy(
            text="weight the probabilities by the labels",
            before="total = ops.sum(ops.softmax(y_pred), axis=-1)",
            after="total = ops.sum(y_true * ops.softmax(y_pred), axis=-1)",
            when=_is_softmax,
        ),
    ),
    bad=_BAD,
    good=_BAD.replace(
        "y_pred[:, 0] - y_pred[:, 0]  # [constant-loss]",
        "y_pred[:, 1] - y_pred[:, 0]",
    ),
)
