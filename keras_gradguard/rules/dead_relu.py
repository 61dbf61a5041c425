"""GG201: a ReLU whose inputs are all negative."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import both, call, is_started, no, op

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
    message="the ReLU outputs zero for every unit and row",
    why=(
        "The derivative of a ReLU is zero for negative inputs. If all of its "
        "inputs are negative, no gradient reaches the weights before it."
    ),
    help=(
        Remedy(
            text="lower the learning rate: the units were active at first",
            before="optimizer = keras.optimizers.Adam(1.0)",
            after="optimizer = keras.optimizers.Adam(0.001)",
            when=is_started,
        ),
        Remedy(
            text="scale the inputs",
            before="model.fit(x, y)",
            after=(
                "x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-7)\n"
                "model.fit(x, y)"
            ),
            when=is_started,
        ),
        Remedy(
            text="initialise the biases to zero",
            before="bias_initializer=keras.initializers.Constant(-10.0)",
            after='bias_initializer="zeros"',
            when=both(no(is_started), call("bias_initializer")),
        ),
        Remedy(
            text="use an activation with a gradient for negative inputs",
            before='activation="relu"',
            after='activation="leaky_relu"',
            when=no(op("Maximum")),
        ),
        Remedy(
            text="use a function with a gradient for negative inputs",
            before="ops.maximum(gap, 0.0)",
            after="ops.softplus(gap)",
            when=op("Maximum"),
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [dead-relu]", "").replace("-10.0", "0.1"),
)
