"""GG109: a Python condition on a tensor."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG109",
    name="tensor-as-bool",
    kind="untraceable",
    matches=lambda finding: finding.cause == "tensor_as_bool",
    message="Python asks a tensor whether it is true",
    why=(
        "`if`, `while`, `assert`, `and`, `or`, `min` and `max` decide while "
        "the step is being traced, when the tensor has no value yet. Keras "
        "does not rewrite losses with AutoGraph."
    ),
    help=(
        Remedy(
            text="let TensorFlow choose, and make both sides agree at 1.0",
            before="if error > 1.0:\n    error = 2.0 * error",
            after="error = tf.where(error > 1.0, 2.0 * error - 1.0, error)",
        ),
        Remedy(
            text="and instead of Python's max or min",
            before="error = max(error, 0.1)",
            after="error = tf.maximum(error, 0.1)",
        ),
    ),
    bad="""\
import tensorflow as tf


def loss(y_true, y_pred):
    error = tf.reduce_mean(tf.square(y_true - y_pred))
    if error > 1.0:  # [tensor-as-bool]
        error = 2.0 * error
    return error
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    error = tf.reduce_mean(tf.square(y_true - y_pred))
    return tf.where(error > 1.0, 2.0 * error - 1.0, error)
""",
)
