"""GG212: a second derivative of a piecewise linear function."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import keras
import tensorflow as tf


class Network(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(8, activation="relu")
        self.head = keras.layers.Dense(1, use_bias=False)

    def call(self, x):
        return self.head(self.hidden(x))

    def train_step(self, data):
        x, _ = data
        with tf.GradientTape() as tape:
            with tf.GradientTape() as outer:
                outer.watch(x)
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    u = self(x)
                slope = inner.gradient(u, x)
            curvature = outer.gradient(slope, x)  # [flat-derivative]
            loss = tf.reduce_mean(tf.square(curvature + tf.sin(x)))
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


def model():
    network = Network()
    network.compile("sgd")
    return network
"""

RULE = Rule(
    code="GG212",
    name="flat-derivative",
    kind="zero",
    matches=lambda finding: finding.cause == "flat_derivative",
    message="the derivative of `{op}` is zero everywhere",
    why=(
        "The first derivative of a piecewise linear activation is piecewise "
        "constant, so a second derivative through it is zero for every input."
    ),
    help=(
        Remedy(
            text="use a smooth activation, such as tanh, softplus or gelu",
            before='keras.layers.Dense(8, activation="relu")',
            after='keras.layers.Dense(8, activation="tanh")',
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [flat-derivative]", "").replace("relu", "tanh"),
)
