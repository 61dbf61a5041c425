"""GG226: a square root at the point where it is steepest."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import tensorflow as tf


def loss(y_true, y_pred):
    points = tf.tanh(y_pred)
    gaps = points[:, tf.newaxis] - points[tf.newaxis, :]
    far = tf.sqrt(tf.reduce_sum(tf.square(gaps), axis=-1))  # [root-at-zero]
    return tf.reduce_mean(far * tf.matmul(y_true, y_true, transpose_b=True))
"""

RULE = Rule(
    code="GG226",
    name="root-at-zero",
    kind="nonfinite",
    ops=("Sqrt", "Rsqrt", "EuclideanNorm"),
    message="`{op}` has no finite slope at zero or less",
    why=(
        "The slope of a root is infinite at 0, and times a 0 before or after "
        "it gives NaN. `tf.norm` and `tf.math.reduce_std` take a root too."
    ),
    help=(
        Remedy(
            text="add a small number under the root",
            before="far = tf.norm(gap, axis=-1)",
            after=(
                "square = tf.reduce_sum(tf.square(gap), axis=-1)\n"
                "far = tf.sqrt(square + 1e-12)"
            ),
        ),
        Remedy(
            text="or leave the root out",
            before="far = tf.norm(gap, axis=-1)",
            after="far = tf.reduce_sum(tf.square(gap), axis=-1)",
        ),
    ),
    bad=_BAD,
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    points = tf.tanh(y_pred)
    gaps = points[:, tf.newaxis] - points[tf.newaxis, :]
    far = tf.sqrt(tf.reduce_sum(tf.square(gaps), axis=-1) + 1e-12)
    return tf.reduce_mean(far * tf.matmul(y_true, y_true, transpose_b=True))
""",
)
