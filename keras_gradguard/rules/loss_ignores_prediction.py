"""GG303: a loss that does not use the prediction."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG303",
    name="loss-ignores-prediction",
    kind="unused",
    matches=lambda finding: finding.cause == "loss_ignores_prediction",
    message="the loss does not use the prediction",
    why=(
        "No op connects the prediction to the loss, so the loss is the same "
        "whatever the model predicts."
    ),
    help=(
        Remedy(
            text="compare the prediction with the labels",
            before="return ops.mean(ops.square(y_true))",
            after="return ops.mean(ops.square(y_true - y_pred))",
        ),
    ),
    bad="""\
import tensorflow as tf


def loss(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_true))  # [loss-ignores-prediction]
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_true - y_pred))
""",
)
