"""GG313: updates that go to another model."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import keras
import tensorflow as tf


class Trainer(keras.Model):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=x, y=y, y_pred=self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients)  # [optimizer-of-other-variables]
        self.metrics[0].update_state(loss)
        return {"loss": self.metrics[0].result()}


def network():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8, activation="tanh", name="hidden")(inputs)
    return Trainer(inputs, keras.layers.Dense(3, name="head")(hidden))


def model():
    first, second = network(), network()
    optimizer = keras.optimizers.SGD(0.01)
    optimizer.build(first.trainable_variables)
    second.compile(optimizer, loss="mse")
    return second


EPOCHS = 8
"""

RULE = Rule(
    code="GG313",
    name="optimizer-of-other-variables",
    kind="not_applied",
    matches=lambda finding: finding.cause == "other_variables",
    message="the optimizer updates another model",
    why=(
        "Without a list of variables, `optimizer.apply` updates the variables "
        "that the optimizer was built with. A copy of a model has its own "
        "variables."
    ),
    help=(
        Remedy(
            text="give each model its own optimizer",
            before='second.compile(optimizer, loss="mse")',
            after=(
                'second.compile(keras.optimizers.SGD(0.01), loss="mse")\n'
                "second.optimizer.build(second.trainable_variables)"
            ),
        ),
        Remedy(
            text="pass the variables to apply, so that Keras checks them",
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("    first, second = network(), network()\n", "")
    .replace("    optimizer.build(first.trainable_variables)\n", "")
    .replace("    second.compile", "    second = network()\n    second.compile")
    .replace(
        "(gradients)  # [optimizer-of-other-variables]",
        "(gradients, self.trainable_variables)",
    ),
)
