"""GG231: a gradient that almost vanishes on its way back."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import call

_BAD = """\
import keras


def model():
    high = keras.initializers.Constant(16.0)
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(  # [vanishing-gradient]
                8, activation="sigmoid", bias_initializer=high, name="hidden"
            ),
            keras.layers.Dense(3, name="head"),
        ]
    )
    network.compile("adam", loss="mse")
    return network


EPOCHS = 8
"""

RULE = Rule(
    code="GG231",
    name="vanishing-gradient",
    kind="vanishing",
    matches=lambda finding: finding.cause == "vanishing",
    message="almost no gradient reaches these weights",
    why=(
        "Backpropagation multiplies the gradient by the derivative and the "
        "weights of each layer. Many factors below 1, or one near 0, make it "
        "vanish."
    ),
    help=(
        Remedy(
            text="use ReLU with He initialisation instead of sigmoid or tanh",
            before='activation="sigmoid"',
            after='activation="relu", kernel_initializer="he_normal"',
            when=call("sigmoid|tanh"),
        ),
        Remedy(
            text="use He initialisation with ReLU",
            before="kernel_initializer=keras.initializers.RandomNormal()",
            after='kernel_initializer="he_normal"',
            when=call(r"(?s)initializer.*relu|relu.*initializer"),
        ),
        Remedy(
            text="add a residual connection and normalisation",
            before="x = block(x)",
            after="x = keras.layers.LayerNormalization()(x + block(x))",
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [vanishing-gradient]", "").replace("16.0", "0.0"),
)
