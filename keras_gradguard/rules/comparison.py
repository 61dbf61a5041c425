"""GG102: a condition on the scores instead of the scores."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import both, in_layer, in_loss, op

RULE = Rule(
    code="GG102",
    name="comparison",
    kind="disconnected",
    ops=(
        "Greater",
        "GreaterEqual",
        "Less",
        "LessEqual",
        "Equal",
        "NotEqual",
        "ApproximateEqual",
        "LogicalAnd",
        "LogicalOr",
        "LogicalNot",
        "IsNan",
        "IsInf",
        "IsFinite",
        "InTopK",
        "InTopKV2",
    ),
    message="`{op}` returns a Boolean: no gradient",
    why=(
        "A comparison is piecewise constant: its derivative is zero or "
        "undefined everywhere. Casting the result to float32 does not restore "
        "the gradient."
    ),
    help=(
        Remedy(
            text=(
                "use a sigmoid as a soft threshold; keep the hard one for "
                "metrics"
            ),
            before='hard = ops.cast(y_pred > 0.5, "float32")',
            after="hard = ops.sigmoid(10.0 * (y_pred - 0.5))",
            when=both(in_loss, op("Greater", "GreaterEqual")),
        ),
        Remedy(
            text=(
                "use a sigmoid as a soft threshold; keep the hard one for "
                "metrics"
            ),
            before='low = ops.cast(y_pred < 0.5, "float32")',
            after="low = ops.sigmoid(10.0 * (0.5 - y_pred))",
            when=both(in_loss, op("Less", "LessEqual")),
        ),
        Remedy(
            text="use a sigmoid as a soft gate",
            before='gate = ops.cast(x > 0.0, "float32")',
            after="gate = ops.sigmoid(10.0 * x)",
            when=both(in_layer, op("Greater", "GreaterEqual")),
        ),
        Remedy(
            text="keep the hard gate, with the gradient of a sigmoid",
            before='gate = ops.cast(x > 0.0, "float32")',
            after=(
                "soft = ops.sigmoid(x)\n"
                'hard = ops.cast(x > 0.0, "float32")\n'
                "gate = soft + ops.stop_gradient(hard - soft)"
            ),
            when=both(in_layer, op("Greater", "GreaterEqual")),
        ),
        Remedy(
            text="measure how close the values are instead of equality",
            before='hit = ops.cast(ops.equal(y_true, y_pred), "float32")',
            after="hit = ops.exp(-ops.square(y_true - y_pred))",
            when=op("Equal", "ApproximateEqual"),
        ),
        Remedy(
            text="measure how far apart the values are",
            before='miss = ops.cast(ops.not_equal(y_true, y_pred), "float32")',
            after="miss = 1.0 - ops.exp(-ops.square(y_true - y_pred))",
            when=op("NotEqual"),
        ),
        Remedy(
            text="use the cross-entropy; keep top-k accuracy for metrics",
            before=(
                'hit = ops.cast(ops.in_top_k(labels, y_pred, 2), "float32")\n'
                "miss = 1.0 - hit"
            ),
            after=(
                "miss = keras.losses.sparse_categorical_crossentropy("
                "labels, y_pred)"
            ),
            when=op("InTopK", "InTopKV2"),
        ),
    ),
    bad="""\
import tensorflow as tf


def loss(y_true, y_pred):
    hard = tf.cast(y_pred > 0.5, tf.float32)  # [comparison]
    return tf.reduce_mean(tf.abs(y_true - hard))
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    soft = tf.sigmoid(10.0 * (y_pred - 0.5))
    return tf.reduce_mean(tf.abs(y_true - soft))
""",
)
