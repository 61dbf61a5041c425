"""GG116: Python code wrapped as one op."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import op

RULE = Rule(
    code="GG116",
    name="numpy-function",
    kind="disconnected",
    ops=("PyFunc", "PyFuncStateless", "EagerPyFunc"),
    message="`{op}` runs Python without a gradient",
    why=(
        "`tf.numpy_function` never has a gradient. `tf.py_function` has one "
        "only where TensorFlow ops compute the result inside, not NumPy or "
        "`.numpy()`."
    ),
    help=(
        Remedy(
            text="use tensor operations instead of the wrapped function",
            before="error = tf.numpy_function(np.square, [gap], tf.float32)",
            after="error = ops.square(gap)",
            when=op("PyFunc", "PyFuncStateless"),
        ),
        Remedy(
            text="if it uses TensorFlow ops only, wrap it in tf.py_function",
            before="error = tf.numpy_function(np.square, [gap], tf.float32)",
            after=(
                "error = tf.py_function(tf.square, [gap], tf.float32)\n"
                "error.set_shape(gap.shape)"
            ),
            when=op("PyFunc", "PyFuncStateless"),
        ),
        Remedy(
            text="use tensor operations inside tf.py_function",
            before="def squared(gap):\n    return np.square(gap.numpy())",
            after="def squared(gap):\n    return ops.square(gap)",
            when=op("EagerPyFunc"),
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
