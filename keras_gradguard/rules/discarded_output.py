"""GG304: a layer whose output nobody uses."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import keras
import tensorflow as tf


class Classifier(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(8, activation="relu", name="hidden")
        self.aux = keras.layers.Dense(8, name="aux")
        self.head = keras.layers.Dense(3, name="head")

    def call(self, inputs):
        h = self.hidden(inputs)
        self.aux(h)  # [discarded-output]
        return self.head(h)


def model():
    classifier = Classifier()
    classifier(tf.zeros((1, 4)))
    classifier.compile("adam", loss="mse")
    return classifier
"""

RULE = Rule(
    code="GG304",
    name="discarded-output",
    kind="unused",
    matches=lambda finding: finding.cause == "discarded_output",
    message="a layer is called and its output thrown away",
    why=(
        "Tensors do not change in place: a layer returns a new one, and if "
        "that leads to no loss the layer does not learn."
    ),
    help=(
        Remedy(
            text="use what the layer returns",
            before="self.aux(h)",
            after="h = self.aux(h)",
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("self.aux(h)  # [discarded-output]", "h = self.aux(h)"),
)
