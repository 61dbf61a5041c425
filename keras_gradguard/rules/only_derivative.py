"""GG310: a weight that a derivative of the prediction does not depend on."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import keras
import tensorflow as tf


class Network(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(8, activation="tanh")
        self.head = keras.layers.Dense(1)

    def call(self, x):
        return self.head(self.hidden(x))  # [only-derivative]

    def train_step(self, data):
        x, _ = data
        with tf.GradientTape() as tape:
            with tf.GradientTape() as inner:
                inner.watch(x)
                energy = self(x)
            force = inner.gradient(energy, x)
            loss = keras.ops.mean(keras.ops.square(force + x))
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


def model():
    network = Network()
    network.compile("sgd")
    return network
"""

RULE = Rule(
    code="GG310",
    name="only-derivative",
    kind="unused",
    matches=lambda finding: finding.cause == "only_derivative",
    message="the loss uses only derivatives of the output",
    why=(
        "A weight that is added to the output is a constant there: it is "
        "absent from every derivative with respect to the input."
    ),
    help=(
        Remedy(
            text="add a term with the value itself, such as a boundary loss",
            before="loss = ops.mean(ops.square(force + x))",
            after=(
                "loss = ops.mean(ops.square(force + x))\n"
                "loss += ops.mean(ops.square(energy))"
            ),
        ),
        Remedy(
            text="remove the weight",
            before="keras.layers.Dense(1)",
            after="keras.layers.Dense(1, use_bias=False)",
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [only-derivative]", "").replace(
        "Dense(1)", "Dense(1, use_bias=False)"
    ),
)
