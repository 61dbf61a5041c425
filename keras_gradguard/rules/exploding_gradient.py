"""GG232: a gradient that grows with every step."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import keras


def inputs(x):
    return 30.0 * x


def targets(y):
    return 1e6 * y


def model():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, name="head"),  # [exploding-gradient]
        ]
    )
    network.compile("sgd", loss="mse")
    return network


EPOCHS = 8
"""

RULE = Rule(
    code="GG232",
    name="exploding-gradient",
    kind="exploding",
    matches=lambda finding: finding.cause == "exploding",
    message="the gradient is far too large and grows",
    why=(
        "Large inputs, weights or targets make a large gradient, and with it "
        "a step that is too long. The next gradient is then larger still."
    ),
    help=(
        Remedy(
            text="bring inputs and targets to one scale",
            before="model.fit(x, y)",
            after=(
                "x = (x - x.mean(axis=0)) / x.std(axis=0)\n"
                "y = (y - y.mean(axis=0)) / y.std(axis=0)\n"
                "model.fit(x, y)"
            ),
        ),
        Remedy(
            text="or bound the length of a step",
            before="keras.optimizers.SGD(0.01)",
            after="keras.optimizers.SGD(0.01, clipnorm=1.0)",
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [exploding-gradient]", "")
    .replace("30.0 * x", "x / x.std(axis=0)")
    .replace("1e6 * y", "y"),
)
