"""GG264: a loss that is multiplied by the loss scale twice."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import keras
import tensorflow as tf


class Own(keras.Model):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
            loss = self.optimizer.scale_loss(loss)
            scaled = self.optimizer.scale_loss(loss)  # [loss-scaled-twice]
        weights = self.trainable_variables
        gradients = tape.gradient(scaled, weights)
        self.optimizer.apply(gradients, weights)
        return {"loss": loss}


def model():
    half = {"dtype": "mixed_float16"}
    inputs = keras.Input((4,))
    x = keras.layers.Dense(8, "tanh", name="hidden", **half)(inputs)
    x = keras.layers.Dense(3, name="head", **half)(x)
    network = Own(inputs, x)
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(1e-9), initial_scale=64.0
    )
    network.compile(optimizer, "mse")
    return network
"""

RULE = Rule(
    code="GG264",
    name="loss-scaled-twice",
    kind="wrong",
    matches=lambda finding: finding.cause == "scaled_twice",
    message="the loss is scaled twice, unscaled once",
    why=(
        "A LossScaleOptimizer divides the gradients by its loss scale once. "
        "If the loss is multiplied by it twice, each update is too large by "
        "that factor, 32768 at first, or overflows."
    ),
    help=(
        Remedy(
            text="scale the loss once",
            before="scaled = self.optimizer.scale_loss(loss)",
            after="scaled = loss",
        ),
    ),
    bad=_BAD,
    good=_BAD.replace(
        "scaled = self.optimizer.scale_loss(loss)  # [loss-scaled-twice]",
        "scaled = loss",
    ),
)
