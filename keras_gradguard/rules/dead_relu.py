"""GG201: a ReLU that no value gets through."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import keras


def model():
    low = keras.initializers.Constant(-10.0)
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(  # [dead-relu]
                8, activation="relu", bias_initializer=low, name="hidden"
            ),
            keras.layers.Dense(3, name="head"),
        ]
    )
    network.compile("sgd", loss="mse")
    return network


EPOCHS = 8
"""

RULE = Rule(
    code="GG201",
    name="dead-relu",
    kind="zero",
    matches=lambda finding: finding.cause == "dead_relu",
    message="no value above zero reaches the ReLU",
    why=(
        "A ReLU has slope zero below zero. With every unit there on every "
        "row, no gradient gets to the weights before it."
    ),
    help=(
        Remedy(
            text="start with units on both sides of zero",
            before="bias_initializer=keras.initializers.Constant(-10.0)",
            after='bias_initializer="zeros"',
        ),
        Remedy(
            text="or use an activation that is not flat below zero",
            before='activation="relu"',
            after='activation="leaky_relu"',
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [dead-relu]", "").replace("-10.0", "0.1"),
)
