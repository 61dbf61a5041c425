"""GG242: a straight-through estimator."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG242",
    name="straight-through",
    kind="discontinuous",
    matches=lambda finding: finding.cause == "straight_through",
    message="a straight-through estimator sets the gradient",
    why=(
        "The value is piecewise constant, and its gradient is that of a smooth "
        "surrogate. The model trains, but the gradient is not the derivative "
        "of the loss."
    ),
    help=(
        Remedy(
            text="nothing to do if intended; otherwise use a smooth function",
            before="hard = soft + ops.stop_gradient(ops.round(soft) - soft)",
            after="hard = ops.sigmoid(10.0 * (soft - 0.5))",
        ),
    ),
    bad="""\
import tensorflow as tf

CHECK = True


def loss(y_true, y_pred):
    step = tf.stop_gradient(tf.round(y_pred) - y_pred)  # [straight-through]
    return tf.reduce_mean(tf.square(y_true - (y_pred + step)))
""",
    good="""\
import tensorflow as tf

CHECK = True


def loss(y_true, y_pred):
    soft = tf.sigmoid(10.0 * (y_pred - 0.5))
    return tf.reduce_mean(tf.square(y_true - soft))
""",
)
