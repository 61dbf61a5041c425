"""GG106: a gradient stopped in the wrong place."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import (
    before,
    both,
    in_layer,
    in_loss,
    lines,
    no,
)

_is_in_loop = before("While", "StatelessWhile")


RULE = Rule(
    code="GG106",
    name="stop-gradient",
    kind="disconnected",
    ops=("StopGradient", "PreventGradient"),
    message="`{op}` blocks the gradient",
    why=(
        "`stop_gradient` returns its input as a constant. That is right for a "
        "target, such as the output of a target network, but not for a value "
        "that the model has to learn."
    ),
    help=(
        Remedy(
            text=(
                "stop the gradient only every few steps (truncated "
                "backpropagation)"
            ),
            before="state = ops.stop_gradient(cell(x, state))",
            after=(
                "state = cell(x, state)\n"
                "state = ops.where(\n"
                "    step % 8 == 7, ops.stop_gradient(state), state\n"
                ")"
            ),
            when=_is_in_loop,
        ),
        Remedy(
            text="remove stop_gradient from the prediction",
            before="error = y_true - ops.stop_gradient(y_pred)",
            after="error = y_true - y_pred",
            when=both(in_loss, no(_is_in_loop)),
        ),
        Remedy(
            text="stop the gradient of the target network instead",
            before="error = ops.stop_gradient(online(x)) - target(x)",
            after="error = online(x) - ops.stop_gradient(target(x))",
            when=both(lines(r"target|teacher|momentum|ema"), no(_is_in_loop)),
        ),
        Remedy(
            text="remove stop_gradient",
            before="x = ops.stop_gradient(encoder(x))",
            after="x = encoder(x)",
            when=both(in_layer, no(_is_in_loop)),
        ),
    ),
    bad="""\
import tensorflow as tf


def loss(y_true, y_pred):
    error = y_true - tf.stop_gradient(y_pred)  # [stop-gradient]
    return tf.reduce_mean(tf.square(error))
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    error = y_true - y_pred
    return tf.reduce_mean(tf.square(error))
""",
)
