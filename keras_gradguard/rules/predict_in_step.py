"""GG121: `predict` called where the model itself is to be called."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import keras
import tensorflow as tf


class Trainer(keras.Model):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self.predict(x, verbose=0)  # [predict-in-step]
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
    code="GG121",
    name="predict-in-step",
    kind="untraceable",
    matches=lambda finding: finding.cause == "predict",
    message="`predict` is called inside a training step",
    why=(
        "`predict` runs its own loop and returns NumPy arrays, which have no "
        "gradient. Keras does not allow it inside a training step."
    ),
    help=(
        Remedy(
            text="call the model",
            before="y_pred = self.predict(x, verbose=0)",
            after="y_pred = self(x, training=True)",
        ),
    ),
    bad=_BAD,
    good=_BAD.replace(
        "self.predict(x, verbose=0)  # [predict-in-step]",
        "self(x, training=True)",
    ),
)
