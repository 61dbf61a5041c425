"""GG242: values in steps that are given a gradient on purpose."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG242",
    name="straight-through",
    kind="discontinuous",
    matches=lambda finding: finding.cause == "straight_through",
    message="values in steps get a stand-in gradient here",
    why=(
        "This is a straight-through estimator: the value changes in jumps, "
        "and the gradient is that of something smooth. It trains, but the "
        "gradient is not the slope of the loss."
    ),
    help=(
        Remedy(
            text="nothing is to be done if that is meant; if not, stay soft",
            before="y_pred += tf.stop_gradient(tf.round(y_pred) - y_pred)",
            after="y_pred = tf.sigmoid(10.0 * (y_pred - 0.5))",
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
