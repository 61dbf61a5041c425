"""GG107: an op that TensorFlow cannot differentiate at all."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import op

# Those with a remedy of their own.
_KNOWN = (
    "ResizeArea",
    "AdjustContrastv2",
    "AdjustHue",
    "AdjustSaturation",
    "MatrixLogarithm",
    "RandomPoisson",
    "RandomPoissonV2",
)


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
    message="`{op}` has no registered gradient",
    why=(
        "The forward pass works, but the op has no registered gradient "
        "function, so TensorFlow raises LookupError and no variable is "
        "trained."
    ),
    help=(
        Remedy(
            text="resize with a method that has a gradient",
            before='small = tf.image.resize(image, size, method="area")',
            after='small = tf.image.resize(image, size, method="bilinear")',
            when=op("ResizeArea"),
        ),
        Remedy(
            text="compute the contrast from the mean",
            before="image = tf.image.adjust_contrast(image, factor)",
            after=(
                "mean = ops.mean(image, axis=(-3, -2), keepdims=True)\n"
                "image = (image - mean) * factor + mean"
            ),
            when=op("AdjustContrastv2"),
        ),
        Remedy(
            text="blend the image with its grey version",
            before="image = tf.image.adjust_saturation(image, factor)",
            after=(
                "grey = tf.image.rgb_to_grayscale(image)\n"
                "image = grey + factor * (image - grey)"
            ),
            when=op("AdjustSaturation"),
        ),
        Remedy(
            text="apply the op to the input data, where no gradient is needed",
            when=op("AdjustHue", "AdjustSaturation", "AdjustContrastv2"),
        ),
        Remedy(
            text="for a Hermitian matrix, use its eigenvalues",
            before="result = tf.linalg.logm(matrix)",
            after=(
                "values, vectors = tf.linalg.eigh(matrix)\n"
                "scaled = vectors * ops.log(values)[..., None, :]\n"
                "result = tf.matmul(scaled, vectors, adjoint_b=True)"
            ),
            when=op("MatrixLogarithm"),
        ),
        Remedy(
            text="use the normal approximation, which is good for large rates",
            before="drawn = tf.random.poisson([], rate)",
            after=(
                "noise = keras.random.normal(ops.shape(rate))\n"
                "drawn = rate + ops.sqrt(rate) * noise"
            ),
            when=op("RandomPoisson", "RandomPoissonV2"),
        ),
        Remedy(
            text="define its gradient with ops.custom_gradient",
            when=lambda finding: finding.op not in _KNOWN,
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
