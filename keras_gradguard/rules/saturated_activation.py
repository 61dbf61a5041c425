"""GG204: a saturated sigmoid, tanh or softmax."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import (
    after,
    both,
    in_layer,
    in_loss,
    is_started,
    op,
)

RULE = Rule(
    code="GG204",
    name="saturated-activation",
    kind="zero",
    ops=("Sigmoid", "Tanh", "Softmax"),
    matches=lambda finding: finding.cause == "saturated_activation",
    message="the activation is saturated: zero gradient",
    why=(
        "A sigmoid or tanh is flat far from zero, and a softmax is flat once "
        "one score is far above the others: the derivative underflows to 0."
    ),
    help=(
        Remedy(
            text="do not scale the scores up",
            before="share = ops.sigmoid(y_pred / 1e-6)",
            after="share = ops.sigmoid(y_pred)",
            when=both(in_loss, after("RealDiv", "Mul")),
        ),
        Remedy(
            text="use the cross-entropy of the logits (from_logits=True)",
            before=(
                "share = ops.sigmoid(y_pred)\n"
                "return ops.mean(ops.square(y_true - share))"
            ),
            after=(
                "return keras.losses.binary_crossentropy(\n"
                "    y_true, y_pred, from_logits=True\n"
                ")"
            ),
            when=both(in_loss, op("Sigmoid")),
        ),
        Remedy(
            text="use the cross-entropy of the logits (from_logits=True)",
            before=(
                "share = ops.softmax(y_pred)\n"
                "return ops.mean(ops.square(y_true - share))"
            ),
            after=(
                "return keras.losses.categorical_crossentropy(\n"
                "    y_true, y_pred, from_logits=True\n"
                ")"
            ),
            when=both(in_loss, op("Softmax")),
        ),
        Remedy(
            text=(
                "lower the learning rate: the activation was not saturated at "
                "first"
            ),
            before="optimizer = keras.optimizers.Adam(100.0)",
            after="optimizer = keras.optimizers.Adam(0.001)",
            when=both(in_layer, is_started),
        ),
        Remedy(
            text="normalise the input of the layer",
            before='x = keras.layers.Dense(8, activation="tanh")(x)',
            after=(
                "x = keras.layers.LayerNormalization()(x)\n"
                'x = keras.layers.Dense(8, activation="tanh")(x)'
            ),
            when=in_layer,
        ),
    ),
    bad="""\
import tensorflow as tf


def loss(y_true, y_pred):
    share = tf.sigmoid(y_pred / 1e-6)  # [saturated-activation]
    return tf.reduce_mean(tf.square(y_true - share))


EPOCHS = 8
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    share = tf.sigmoid(y_pred)
    return tf.reduce_mean(tf.square(y_true - share))


EPOCHS = 8
""",
)
