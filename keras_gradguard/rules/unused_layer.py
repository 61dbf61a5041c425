"""GG301: a layer that is built and never called."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import keras
import tensorflow as tf


class Classifier(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(8, activation="relu", name="hidden")
        self.spare = keras.layers.Dense(8, name="spare")  # [unused-layer]
        self.spare.build((None, 8))
        self.head = keras.layers.Dense(3, name="head")

    def call(self, inputs):
        hidden = self.hidden(inputs)
        return self.head(hidden)


def model():
    classifier = Classifier()
    classifier(tf.zeros((1, 4)))
    classifier.compile("adam", loss="mse")
    return classifier
"""

RULE = Rule(
    code="GG301",
    name="unused-layer",
    kind="unused",
    matches=lambda finding: finding.cause == "unused_layer",
    message="a layer is built, but the model never calls it",
    why=(
        "Its variables are trainable, but no output depends on them, so they "
        "keep their initial values."
    ),
    help=(
        Remedy(
            text="call the layer",
            before="return self.head(hidden)",
            after="return self.head(self.spare(hidden))",
        ),
        Remedy(
            text="delete it",
            before=(
                'self.spare = keras.layers.Dense(8, name="spare")\n'
                "self.spare.build((None, 8))"
            ),
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [unused-layer]", "").replace(
        "self.head(hidden)", "self.head(self.spare(hidden))"
    ),
)
