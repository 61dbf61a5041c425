"""GG308: a variable that Keras does not track."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import call, no

_is_keras = call(r"\b(keras|backend)\.Variable")

_BAD = """\
import keras
import tensorflow as tf


class Codes(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.codebook = tf.Variable(tf.ones((8, 3)))  # [untracked-variable]

    def call(self, inputs):
        return tf.matmul(inputs, self.codebook)


def model():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8, activation="tanh", name="hidden")(inputs)
    network = keras.Model(inputs, Codes(name="codes")(hidden))
    network.compile("adam", loss="mse")
    return network
"""

RULE = Rule(
    code="GG308",
    name="untracked-variable",
    kind="unused",
    matches=lambda finding: finding.cause == "untracked_variable",
    message="Keras does not track or train this variable",
    why=(
        "Keras 3 trains the weights that layers create with `add_weight`. It "
        "does not track a `tf.Variable`, or a variable that only a closure or "
        "another object holds."
    ),
    help=(
        Remedy(
            text="make the variable a weight of a layer",
            before="self.codebook = tf.Variable(tf.ones((8, 3)))",
            after=(
                "self.codebook = self.add_weight(\n"
                '    shape=(8, 3), initializer="ones", name="codebook"\n'
                ")"
            ),
            when=no(_is_keras),
        ),
        Remedy(
            text="mark it as not trainable",
            before="tf.Variable(tf.ones((8, 3)))",
            after="tf.Variable(tf.ones((8, 3)), trainable=False)",
            when=no(_is_keras),
        ),
        Remedy(
            text="assign it to an attribute of a layer, or use add_weight",
            when=_is_keras,
        ),
    ),
    bad=_BAD,
    good=_BAD.replace(
        "tf.Variable(tf.ones((8, 3)))  # [untracked-variable]",
        "self.add_weight(\n"
        '            shape=(8, 3), initializer="ones", name="codebook"\n'
        "        )",
    ),
)
