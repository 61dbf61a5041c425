"""GG204: a sigmoid, tanh or softmax at its flat end."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG204",
    name="saturated-activation",
    kind="zero",
    ops=("Sigmoid", "Tanh", "Softmax"),
    matches=lambda finding: finding.cause == "saturated_activation",
    message="the activation is at its flat end",
    why=(
        "Far from zero a sigmoid or a tanh is flat, and so is a softmax of "
        "scores that lie far apart: the slope underflows to exactly 0."
    ),
    help=(
        Remedy(
            text="keep the scores small",
            before="share = tf.nn.softmax(y_pred / 1e-6)",
            after="share = tf.nn.softmax(y_pred)",
        ),
        Remedy(
            text="or bring the layer's input to one scale",
            before='x = keras.layers.Dense(8, activation="tanh")(x)',
            after=(
                "x = keras.layers.LayerNormalization()(x)\n"
                'x = keras.layers.Dense(8, activation="tanh")(x)'
            ),
        ),
    ),
    bad="""\
import tensorflow as tf


def loss(y_true, y_pred):
    share = tf.nn.softmax(y_pred / 1e-6)  # [saturated-activation]
    return tf.reduce_mean(tf.square(y_true - share))


EPOCHS = 8
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    share = tf.nn.softmax(y_pred)
    return tf.reduce_mean(tf.square(y_true - share))


EPOCHS = 8
""",
)
