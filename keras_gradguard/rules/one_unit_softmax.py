"""GG205: a softmax with nothing to choose from."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import keras


def targets(y):
    return y[:, :1]


def model():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", name="hidden"),
            keras.layers.Dense(  # [one-unit-softmax]
                1, activation="softmax", name="head"
            ),
        ]
    )
    network.compile("sgd", loss="mse")
    return network


EPOCHS = 8
"""

RULE = Rule(
    code="GG205",
    name="one-unit-softmax",
    kind="zero",
    ops=("Softmax",),
    matches=lambda finding: finding.cause == "one_unit_softmax",
    message="a softmax over one value is always 1",
    why=(
        "A softmax divides each value by the sum over its axis. With one "
        "value on that axis the result is 1 and its slope is zero."
    ),
    help=(
        Remedy(
            text="use a sigmoid for a single unit",
            before='keras.layers.Dense(1, activation="softmax")',
            after='keras.layers.Dense(1, activation="sigmoid")',
        ),
        Remedy(
            text="or one unit for each class",
            before='keras.layers.Dense(1, activation="softmax")',
            after='keras.layers.Dense(2, activation="softmax")',
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [one-unit-softmax]", "").replace(
        "softmax", "sigmoid"
    ),
)
