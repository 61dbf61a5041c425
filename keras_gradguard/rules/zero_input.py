"""GG211: a layer that gets nothing but zeros."""

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
    message="the input of the layer is zero on every row",
    why=(
        "The gradient of a kernel is what comes back times the input of its "
        "layer. With an input of zero it is zero."
    ),
    help=(
        Remedy(
            text="divide without rounding",
            before="x = pixels // 255",
            after="x = pixels / 255",
        ),
        Remedy(
            text="or look for the columns that never change",
            after="print(np.flatnonzero(np.ptp(x, axis=0) == 0))",
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [zero-input]", "").replace("//", "/"),
)
