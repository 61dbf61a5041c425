"""GG307: a function that was traced while Keras built what it calls."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import keras
import tensorflow as tf


class Classifier(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(8, activation="relu", name="hidden")
        self.head = keras.layers.Dense(3, name="head")

    @tf.function  # [early-trace]
    def call(self, inputs):
        return self.head(self.hidden(inputs))


def model():
    classifier = Classifier()
    classifier.compile("adam", loss="mse")
    return classifier
"""

RULE = Rule(
    code="GG307",
    name="early-trace",
    kind="unused",
    matches=lambda finding: finding.cause == "early_trace",
    message="`{function}` was traced before its layers had weights",
    why=(
        "Keras calls a model once to build it, with placeholders for weights "
        "that do not exist yet. `tf.function` keeps that trace, so the step "
        "never reads the weights."
    ),
    help=(
        Remedy(
            text="remove the decorator: Keras compiles the whole step anyway",
            before="@tf.function\ndef call(self, inputs):",
            after="def call(self, inputs):",
        ),
        Remedy(
            text="build the layers in the constructor",
            before='self.head = keras.layers.Dense(3, name="head")',
            after=(
                'self.head = keras.layers.Dense(3, name="head")\n'
                "self.hidden.build((None, 4))\n"
                "self.head.build((None, 8))"
            ),
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("    @tf.function  # [early-trace]\n", ""),
)
