"""GG208: weights that are all zero and stay so."""

from keras_gradguard.rules._rule import Remedy, Rule

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
    message="weights that are all zero let nothing pass back",
    why=(
        "Weights of zero let no gradient through. If what they are "
        "multiplied by is zero too, they get none either and stay zero."
    ),
    help=(
        Remedy(
            text="start from random weights",
            before='kernel_initializer="zeros"',
            after='kernel_initializer="glorot_uniform"',
        ),
        Remedy(
            text="let only one of two factors start at zero",
            before='self.down = self.add_weight((n, 2), "zeros")',
            after='self.down = self.add_weight((n, 2), "glorot_uniform")',
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [zero-weights]", "").replace(
        'zeros", name="down"', 'glorot_uniform", name="down"'
    ),
)
