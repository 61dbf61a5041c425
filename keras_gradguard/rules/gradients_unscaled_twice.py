"""GG265: gradients that are divided by the loss scale twice."""

from keras_gradguard.rules._rule import Remedy, Rule

_DIVISION = "gradients = [g / scale for g in gradients]"
_BAD = f"""\
import keras
import tensorflow as tf


class Own(keras.Model):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
            scaled = self.optimizer.scale_loss(loss)
        weights = self.trainable_variables
        gradients = tape.gradient(scaled, weights)
        scale = self.optimizer.scale_loss(1.0)
        {_DIVISION}  # [gradients-unscaled-twice]
        self.optimizer.apply(gradients, weights)
        return {{"loss": loss}}


def model():
    half = {{"dtype": "mixed_float16"}}
    inputs = keras.Input((4,))
    x = keras.layers.Dense(8, "tanh", name="hidden", **half)(inputs)
    x = keras.layers.Dense(3, name="head", **half)(x)
    network = Own(inputs, x)
    optimizer = keras.optimizers.SGD(0.01)
    network.compile(keras.optimizers.LossScaleOptimizer(optimizer), "mse")
    return network
"""

RULE = Rule(
    code="GG265",
    name="gradients-unscaled-twice",
    kind="underflow",
    matches=lambda finding: finding.cause == "unscaled_twice",
    message="the step and the optimizer both unscale",
    why=(
        "A LossScaleOptimizer divides the gradients that it is given by its "
        "loss scale. If the step divides them too, each update is too small "
        "by that factor, 32768 at first."
    ),
    help=(
        Remedy(
            text="leave it to the optimizer to unscale",
            before=_DIVISION,
            after="gradients = list(gradients)",
        ),
    ),
    bad=_BAD,
    good=_BAD.replace(
        "        scale = self.optimizer.scale_loss(1.0)\n", ""
    ).replace(f"        {_DIVISION}  # [gradients-unscaled-twice]\n", ""),
)
