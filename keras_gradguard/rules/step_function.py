"""GG243: a loss with a step function as a factor."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import op

RULE = Rule(
    code="GG243",
    name="step-function",
    kind="discontinuous",
    matches=lambda finding: finding.cause == "step_function",
    message="the loss jumps where the value of `{op}` changes",
    why=(
        "`sign`, `round` and `floor` are piecewise constant. Backpropagation "
        "takes their value for a constant and ignores the jump, so no "
        "gradient leads to the lower side."
    ),
    help=(
        Remedy(
            text="use tanh as a smooth sign",
            before="side = ops.sign(y_true * y_pred)",
            after="side = ops.tanh(5.0 * y_true * y_pred)",
            when=op("Sign"),
        ),
        Remedy(
            text="leave the value unrounded",
            before="level = ops.round(size)",
            after="level = size",
            when=op("Round", "Rint"),
        ),
        Remedy(
            text="leave the value unrounded",
            before="level = ops.floor(size)",
            after="level = size",
            when=op("Floor"),
        ),
    ),
    bad="""\
import tensorflow as tf


def loss(y_true, y_pred):
    side = tf.sign(y_true * y_pred)  # [step-function]
    return tf.reduce_mean((2.0 - side) * tf.square(y_true - y_pred), axis=-1)
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    side = tf.tanh(5.0 * y_true * y_pred)
    return tf.reduce_mean((2.0 - side) * tf.square(y_true - y_pred), axis=-1)
""",
)
