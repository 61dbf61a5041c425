"""GG126: a derivative by something that the tape does not watch."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import keras
import tensorflow as tf


class Network(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(8, activation="tanh")
        self.head = keras.layers.Dense(1, use_bias=False)

    def call(self, x):
        return self.head(self.hidden(x))

    def train_step(self, data):
        x, _ = data
        with tf.GradientTape() as tape:
            with tf.GradientTape() as inner:
                u = self(x)
            u_x = inner.gradient(u, x)  # [unwatched-source]
            loss = tf.reduce_mean(tf.square(u_x + x))
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


def model():
    network = Network()
    network.build((None, 4))
    network.compile("sgd")
    return network
"""
_INNER = "            with tf.GradientTape() as inner:\n"

RULE = Rule(
    code="GG126",
    name="unwatched-source",
    kind="disconnected",
    matches=lambda finding: finding.cause == "no_derivative",
    message="the tape returns `None` for this derivative",
    why=(
        "`tf.GradientTape` watches trainable variables automatically, but "
        "other tensors only after `watch`. A derivative is also `None` where "
        "the target does not depend on the source."
    ),
    help=(
        Remedy(
            text="watch the tensor before it is used",
            before="with tf.GradientTape() as inner:\n    u = self(x)",
            after=(
                "with tf.GradientTape() as inner:\n"
                "    inner.watch(x)\n"
                "    u = self(x)"
            ),
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [unwatched-source]", "").replace(
        _INNER, f"{_INNER}                inner.watch(x)\n"
    ),
)
