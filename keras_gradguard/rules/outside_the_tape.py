"""GG120: a prediction made before the gradient tape records."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import lines, no

_BAD = """\
import keras
import tensorflow as tf


class Trainer(keras.Model):
    def train_step(self, data):
        x, y = data
        y_pred = self(x, training=True)  # [outside-the-tape]
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=x, y=y, y_pred=y_pred)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        self.metrics[0].update_state(loss)
        return {"loss": self.metrics[0].result()}


def model():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8, activation="relu", name="hidden")(inputs)
    outputs = keras.layers.Dense(3, name="head")(hidden)
    trainer = Trainer(inputs, outputs)
    trainer.compile("adam", loss="mse")
    return trainer
"""

RULE = Rule(
    code="GG120",
    name="outside-the-tape",
    kind="disconnected",
    matches=lambda finding: finding.cause == "outside_tape",
    message="part of the step is not on the gradient tape",
    why=(
        "`tf.GradientTape` records only what runs inside its `with` block "
        "(and outside of `stop_recording`). Everything else is a constant."
    ),
    help=(
        Remedy(
            text="call the model and compute the loss inside the with block",
            before=(
                "y_pred = self(x, training=True)\n"
                "with tf.GradientTape() as tape:"
            ),
            after=(
                "with tf.GradientTape() as tape:\n"
                "    y_pred = self(x, training=True)"
            ),
            when=no(lines("stop_recording")),
        ),
        Remedy(
            text="move the line out of the stop_recording block",
            before=(
                "with tape.stop_recording():\n"
                "    y_pred = self(x, training=True)"
            ),
            after="y_pred = self(x, training=True)",
            when=lines("stop_recording"),
        ),
    ),
    bad=_BAD,
    good=_BAD.replace(
        """\
        y_pred = self(x, training=True)  # [outside-the-tape]
        with tf.GradientTape() as tape:
""",
        """\
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
""",
    ),
)
