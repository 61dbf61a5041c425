"""GG116: Python code wrapped as one op."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG116",
    name="numpy-function",
    kind="disconnected",
    ops=("PyFunc", "PyFuncStateless", "EagerPyFunc"),
    message="`{op}` runs Python, not TensorFlow",
    why=(
        "`tf.numpy_function` hands NumPy arrays to Python and takes NumPy "
        "arrays back, so there is nothing to differentiate."
    ),
    help=(
        Remedy(
            text="use TensorFlow ops in place of the wrapped function",
            before="error = tf.numpy_function(np.square, [gap], tf.float32)",
            after="error = tf.square(gap)",
        ),
        Remedy(
            text="or wrap TensorFlow code with tf.py_function",
            before="error = tf.numpy_function(np.square, [gap], tf.float32)",
            after="error = tf.py_function(tf.square, [gap], tf.float32)",
        ),
    ),
    bad="""\
import numpy as np
import tensorflow as tf


def loss(y_true, y_pred):
    gap = y_true - y_pred
    error = tf.numpy_function(np.square, [gap], "float32")  # [numpy-function]
    return tf.reduce_mean(error)
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    gap = y_true - y_pred
    error = tf.square(gap)
    return tf.reduce_mean(error)
""",
)
