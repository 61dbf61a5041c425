"""GG203: a clip that cuts off the whole batch."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG203",
    name="saturated-clip",
    kind="zero",
    ops=("ClipByValue", "Minimum", "Maximum", "Relu6"),
    matches=lambda finding: finding.cause == "saturated_clip",
    message="every value lies outside the range of the clip",
    why=(
        "Outside its range a clip, a minimum or a maximum returns the bound "
        "whatever the value is: its slope there is zero."
    ),
    help=(
        Remedy(
            text="let a sigmoid keep the value in the range",
            before="degrees = tf.clip_by_value(y_pred, 36.0, 42.0)",
            after="degrees = 36.0 + 6.0 * tf.sigmoid(y_pred)",
        ),
        Remedy(
            text="or keep the clip, and pass the gradient straight by it",
            before="degrees = tf.clip_by_value(y_pred, 36.0, 42.0)",
            after=(
                "clipped = tf.clip_by_value(y_pred, 36.0, 42.0)\n"
                "degrees = y_pred + tf.stop_gradient(clipped - y_pred)"
            ),
        ),
    ),
    bad="""\
import tensorflow as tf


def targets(y):
    return 36.0 + 6.0 * y


def loss(y_true, y_pred):
    degrees = tf.clip_by_value(y_pred, 36.0, 42.0)  # [saturated-clip]
    return tf.reduce_mean(tf.square(y_true - degrees))


EPOCHS = 8
""",
    good="""\
import tensorflow as tf


def targets(y):
    return 36.0 + 6.0 * y


def loss(y_true, y_pred):
    degrees = 36.0 + 6.0 * tf.sigmoid(y_pred)
    return tf.reduce_mean(tf.square(y_true - degrees))


EPOCHS = 8
""",
)
