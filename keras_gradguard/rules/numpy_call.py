"""GG101: a NumPy function where a TensorFlow one is meant."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG101",
    name="numpy-call",
    kind="untraceable",
    matches=lambda finding: finding.cause == "numpy",
    message="NumPy took the plain numbers out of a tensor",
    why=(
        "The gradient tape records TensorFlow ops only; what NumPy returns "
        "is a constant to it."
    ),
    help=(
        Remedy(
            text="use the function of the same name in keras.ops",
            before="error = np.square(y_true - y_pred)",
            after="error = keras.ops.square(y_true - y_pred)",
        ),
    ),
    bad="""\
import numpy as np
import tensorflow as tf


def loss(y_true, y_pred):
    error = np.square(y_true - y_pred)  # [numpy-call]
    return tf.reduce_mean(error)
""",
    good="""\
import keras
import tensorflow as tf


def loss(y_true, y_pred):
    error = keras.ops.square(y_true - y_pred)
    return tf.reduce_mean(error)
""",
)
