"""GG101: a NumPy function called on a tensor."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG101",
    name="numpy-call",
    kind="untraceable",
    matches=lambda finding: finding.cause == "numpy",
    message="a NumPy function is called on a tensor",
    why=(
        "NumPy returns plain numbers, which have no gradient. In a compiled "
        "step, where a tensor has no value yet, the call raises an error."
    ),
    help=(
        Remedy(
            text="use the tensor operation instead of the NumPy function",
            before="error = np.square(y_true - y_pred)",
            after="error = ops.square(y_true - y_pred)",
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
