"""GG208: weights that are all zero and stay zero."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import call, no

_BAD = """\
import keras
import tensorflow as tf


class LowRank(keras.layers.Layer):
    def build(self, input_shape):
        n = input_shape[-1]
        self.down = self.add_weight(
            shape=(n, 2), initializer="zeros", name="down"
        )
        self.up = self.add_weight(shape=(2, n), initializer="zeros", name="up")

    def call(self, inputs):
        kernel = tf.matmul(self.down, self.up)  # [zero-weights]
        return inputs + tf.matmul(inputs, kernel)


def model():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", name="hidden"),
            LowRank(name="low_rank"),
            keras.layers.Dense(3, name="head"),
        ]
    )
    network.compile("sgd", loss="mse")
    return network


EPOCHS = 8
"""

RULE = Rule(
    code="GG208",
    name="zero-weights",
    kind="zero",
    matches=lambda finding: finding.cause == "zero_weights",
    message="weights that are all zero block the gradient",
    why=(
        "Backpropagation multiplies the gradient by the weights. If the other "
        "factor is zero as well, the weights stay zero."
    ),
    help=(
        Remedy(
            text="initialise at random",
            before='kernel_initializer="zeros"',
            after='kernel_initializer="glorot_uniform"',
            when=call("kernel_initializer"),
        ),
        Remedy(
            text="initialise only one of the two factors to zero",
            before='shape=(n, 2), initializer="zeros", name="down"',
            after='shape=(n, 2), initializer="glorot_uniform", name="down"',
            when=no(call("kernel_initializer")),
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [zero-weights]", "").replace(
        'zeros", name="down"', 'glorot_uniform", name="down"'
    ),
)
