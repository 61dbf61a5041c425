"""GG305: a weight that its own layer never reads."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import no


def _is_computed(finding):
    return finding.cause == "computed_once"


_BAD = """\
import keras


class Scaled(keras.layers.Layer):
    def build(self, input_shape):
        n = input_shape[-1:]
        self.scale = self.add_weight(shape=n, name="scale")
        self.shift = self.add_weight(shape=n, name="shift")  # [unused-weight]

    def call(self, inputs):
        return inputs * self.scale


def model():
    inputs = keras.Input((4,))
    hidden = Scaled(name="scaled")(inputs)
    network = keras.Model(inputs, keras.layers.Dense(3, name="head")(hidden))
    network.compile("adam", loss="mse")
    return network
"""

RULE = Rule(
    code="GG305",
    name="unused-weight",
    kind="unused",
    matches=lambda finding: finding.cause in ("unused_weight", "computed_once"),
    message="the layer never reads one of its weights in `call`",
    why=(
        "A variable is trained only if the training step reads it. Reading it "
        "in `build` or `__init__` happens before any step."
    ),
    help=(
        Remedy(
            text="use the weight in call",
            before="return inputs * self.scale",
            after="return inputs * self.scale + self.shift",
            when=no(_is_computed),
        ),
        Remedy(
            text="read it in call, not in build",
            before=(
                "def build(self, input_shape):\n"
                "    n = input_shape[-1:]\n"
                '    self.scores = self.add_weight(shape=n, name="scores")\n'
                "    self.share = ops.softmax(self.scores)\n"
                "\n"
                "def call(self, inputs):\n"
                "    return inputs * self.share"
            ),
            after=(
                "def build(self, input_shape):\n"
                "    n = input_shape[-1:]\n"
                '    self.scores = self.add_weight(shape=n, name="scores")\n'
                "\n"
                "def call(self, inputs):\n"
                "    return inputs * ops.softmax(self.scores)"
            ),
            when=_is_computed,
        ),
    ),
    bad=_BAD,
    good=_BAD.replace(
        "inputs * self.scale\n", "inputs * self.scale + self.shift\n"
    ).replace("  # [unused-weight]", ""),
)
