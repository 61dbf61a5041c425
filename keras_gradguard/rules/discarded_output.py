"""GG304: a layer whose output nobody uses."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import line

_is_update = line(r"\.write\(|\.unstack\(|scatter|slice_update|index_update")


def _is_pooler(finding):
    names = ("pooler", "pooled_dense")
    return any(name in path for path in finding.variables for name in names)


def _is_layer(finding):
    return not (_is_update(finding) or _is_pooler(finding))


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
    message="the result of a layer or update is not used",
    why=(
        "A layer, and an update such as `write`, returns a new value and "
        "changes nothing in place. If the loss does not depend on that value, "
        "nothing behind it is trained."
    ),
    help=(
        Remedy(
            text="use the output of the layer",
            before="self.aux(h)",
            after="h = self.aux(h)",
            when=_is_layer,
        ),
        Remedy(text="remove the layer", before="self.aux(h)", when=_is_layer),
        Remedy(
            text="keep what the update returns",
            before="states.write(step, state)",
            after="states = states.write(step, state)",
            when=_is_update,
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
