"""GG211: a layer whose input is all zeros."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import keras
import numpy as np


def inputs(x):
    pixels = np.clip(100.0 * np.abs(x), 0.0, 254.0).astype("uint8")
    return pixels // 255


def model():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(  # [zero-input]
                8, activation="tanh", name="hidden"
            ),
            keras.layers.Dense(3, name="head"),
        ]
    )
    network.compile("sgd", loss="mse")
    return network


EPOCHS = 8
"""

RULE = Rule(
    code="GG211",
    name="zero-input",
    kind="zero",
    matches=lambda finding: finding.cause == "zero_input",
    message="the input of the layer is zero in every row",
    why=(
        "The gradient of a kernel is the product of the layer's input and the "
        "gradient of its output, so a zero input makes it zero."
    ),
    help=(
        Remedy(
            text="divide without rounding",
            before="return pixels // 255",
            after="return pixels / 255",
        ),
        Remedy(text="print the input: a mask or a dead layer may zero it"),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [zero-input]", "").replace("//", "/"),
)
