"""GG304: a layer whose output nobody uses."""

from keras_gradguard.rules._rule import Remedy, Rule


def _is_pooler(finding):
    names = ("pooler", "pooled_dense")
    return any(name in path for path in finding.variables for name in names)


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
    message="the output of a layer is not used",
    why=(
        "A layer returns a new tensor and does not change its input in place. "
        "If the loss does not depend on that output, the layer is not trained."
    ),
    help=(
        Remedy(
            text="use the output of the layer",
            before="self.aux(h)",
            after="h = self.aux(h)",
            when=lambda finding: not _is_pooler(finding),
        ),
        Remedy(
            text="remove the layer",
            before="self.aux(h)",
            when=lambda finding: not _is_pooler(finding),
        ),
        Remedy(
            text=(
                "an unused pooler is harmless: "
                "GradHealthCallback(expect=[keras_gradguard.expected.POOLER])"
            ),
            when=_is_pooler,
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("self.aux(h)  # [discarded-output]", "h = self.aux(h)"),
)
