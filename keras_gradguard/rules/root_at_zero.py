"""GG226: a square root of zero or less."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import (
    both,
    calls,
    first_value,
    is_half,
    no,
    op,
)


def _is_negative(finding):
    value = first_value(finding)
    return value is not None and value < 0


_is_std = both(op("Sqrt"), calls("std", "reduce_std"))
_is_root = both(op("Sqrt", "EuclideanNorm"), no(_is_std), no(_is_negative))


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
    message="`{op}` of zero or of a negative number",
    why=(
        "The derivative of a square root is infinite at 0, and 0 times "
        "infinity is NaN; the root of less than 0 is NaN itself. `norm` and "
        "`std` take a square root too."
    ),
    help=(
        Remedy(
            text="add a small number under the root, in float32",
            before="far = ops.sqrt(ops.sum(ops.square(gap), axis=-1))",
            after=(
                'gap = ops.cast(gap, "float32")\n'
                "far = ops.sqrt(ops.sum(ops.square(gap), axis=-1) + 1e-12)"
            ),
            when=both(_is_root, is_half),
        ),
        Remedy(
            text="add a small number under the root",
            before="far = ops.sqrt(ops.sum(ops.square(gap), axis=-1))",
            after="far = ops.sqrt(ops.sum(ops.square(gap), axis=-1) + 1e-12)",
            when=both(_is_root, no(is_half)),
        ),
        Remedy(
            text="use the squared distance",
            before="far = ops.sqrt(ops.sum(ops.square(gap), axis=-1))",
            after="far = ops.sum(ops.square(gap), axis=-1)",
            when=_is_root,
        ),
        Remedy(
            text="set a lower bound (the gradient is zero below it)",
            before="root = ops.sqrt(value)",
            after="root = ops.sqrt(ops.maximum(value, 1e-6))",
            when=both(op("Sqrt"), _is_negative),
        ),
        Remedy(
            text="add a small number under the root, in float32",
            before="spread = ops.std(scores, axis=-1)",
            after=(
                'scores = ops.cast(scores, "float32")\n'
                "spread = ops.sqrt(ops.var(scores, axis=-1) + 1e-6)"
            ),
            when=both(_is_std, is_half),
        ),
        Remedy(
            text="add a small number under the root",
            before="spread = ops.std(scores, axis=-1)",
            after="spread = ops.sqrt(ops.var(scores, axis=-1) + 1e-6)",
            when=both(_is_std, no(is_half)),
        ),
        Remedy(
            text="add a small number under the root, in float32",
            before="unit = scores * ops.rsqrt(square)",
            after=(
                'square = ops.cast(square, "float32")\n'
                "factor = ops.cast(ops.rsqrt(square + 1e-6), scores.dtype)\n"
                "unit = scores * factor"
            ),
            when=both(op("Rsqrt"), is_half),
        ),
        Remedy(
            text="add a small number under the root",
            before="unit = scores * ops.rsqrt(square)",
            after="unit = scores * ops.rsqrt(square + 1e-6)",
            when=both(op("Rsqrt"), no(is_half)),
        ),
    ),
    bad=_BAD,
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    points = tf.tanh(tf.cast(y_pred, tf.float32))
    gaps = points[:, tf.newaxis] - points[tf.newaxis, :]
    far = tf.sqrt(tf.reduce_sum(tf.square(gaps), axis=-1) + 1e-12)
    pairs = tf.cast(tf.matmul(y_true, y_true, transpose_b=True), tf.float32)
    return tf.reduce_mean(far * pairs)
""",
)
