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
    message="the updates go to other variables",
    why=(
        "Without a list of variables `optimizer.apply` updates those that "
        "the optimizer was built with. A copy of a model has its own."
    ),
    help=(
        Remedy(
            text="give each model an optimizer of its own",
            before='copy.compile(model.optimizer, loss="mse")',
            after='copy.compile(keras.optimizers.SGD(0.01), loss="mse")',
        ),
        Remedy(
            text="and name the variables, so that Keras can check them",
            before="self.optimizer.apply(gradients)",
            after="self.optimizer.apply(gradients, self.trainable_variables)",
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
