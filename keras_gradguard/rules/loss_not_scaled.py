"""GG263: a loss that is not scaled, and gradients that are unscaled."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import keras
import tensorflow as tf


class Own(keras.Model):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        weights = self.trainable_variables
        gradients = tape.gradient(loss, weights)  # [loss-not-scaled]
        self.optimizer.apply(gradients, weights)
        return {"loss": loss}


def model():
    half = {"dtype": "mixed_float16"}
    inputs = keras.Input((4,))
    x = keras.layers.Dense(8, "tanh", name="hidden", **half)(inputs)
    x = keras.layers.Dense(3, name="head", **half)(x)
    network = Own(inputs, x)
    optimizer = keras.optimizers.SGD(0.01)
    network.compile(keras.optimizers.LossScaleOptimizer(optimizer), "mse")
    return network


EPOCHS = 10
"""
_FORWARD = "loss = self.compute_loss(x, y, self(x, training=True))"

RULE = Rule(
    code="GG263",
    name="loss-not-scaled",
    kind="underflow",
    matches=lambda finding: finding.cause == "loss_not_scaled",
    message="gradients are unscaled, the loss is not scaled",
    why=(
        "A LossScaleOptimizer, which compile puts around yours in "
        "mixed_float16, divides the gradients by its loss scale. A train_step "
        "of your own has to multiply the loss by it."
    ),
    help=(
        Remedy(
            text="scale the loss inside the tape, and log the one before",
            before=_FORWARD,
            after=f"{_FORWARD}\nloss = self.optimizer.scale_loss(loss)",
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [loss-not-scaled]", "")
    .replace(
        _FORWARD,
        f"{_FORWARD}\n            scaled = self.optimizer.scale_loss(loss)",
    )
    .replace("tape.gradient(loss", "tape.gradient(scaled"),
)
