"""GG107: an op that TensorFlow cannot differentiate at all."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG107",
    name="unregistered-op",
    kind="no_gradient_registered",
    ops=(
        "ResizeArea",
        "AdjustContrastv2",
        "AdjustHue",
        "AdjustSaturation",
        "MatrixLogarithm",
    ),
    matches=lambda finding: True,
    message="`{op}` has no gradient function",
    why=(
        "The op runs forward, but nobody wrote a gradient function for it. "
        "TensorFlow then raises LookupError and no variable is trained."
    ),
    help=(
        Remedy(
            text="use an op that has a gradient",
            before='small = tf.image.resize(image, size, method="area")',
            after='small = tf.image.resize(image, size, method="bilinear")',
        ),
        Remedy(
            text="or write the gradient yourself",
            before="result = op(scores)",
            after=(
                "@tf.custom_gradient\n"
                "def with_gradient(scores):\n"
                "    return op(scores), lambda upstream: upstream"
            ),
        ),
    ),
    bad="""\
import tensorflow as tf


def loss(y_true, y_pred):
    gap = (y_true - y_pred)[:, tf.newaxis, :, tf.newaxis]
    coarse = tf.image.resize(gap, (1, 2), method="area")  # [unregistered-op]
    return tf.reduce_mean(tf.square(coarse))
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    gap = (y_true - y_pred)[:, tf.newaxis, :, tf.newaxis]
    coarse = tf.image.resize(gap, (1, 2), method="bilinear")
    return tf.reduce_mean(tf.square(coarse))
""",
)
