"""GG231: a gradient that all but disappears on its way."""

from keras_gradguard.rules._rule import Remedy, Rule

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
    message="almost no gradient reaches the weights",
    why=(
        "Each layer multiplies the gradient on its way back by its slope and "
        "weights. Many factors below 1, or one near 0, leave next to nothing."
    ),
    help=(
        Remedy(
            text="use an activation that is not flat at its ends",
            before='keras.layers.Dense(8, activation="sigmoid")',
            after='keras.layers.Dense(8, activation="relu")',
        ),
        Remedy(
            text="or give the gradient a way round the layers",
            before="x = block(x)",
            after="x = x + block(x)",
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [vanishing-gradient]", "").replace("16.0", "0.0"),
)
