"""GG207: a loss that compile multiplies by zero."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import keras


def targets(y):
    return {"first": y, "second": y}


def model():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8, activation="tanh", name="hidden")(inputs)
    outputs = {
        "first": keras.layers.Dense(3, name="first")(hidden),
        "second": keras.layers.Dense(3, name="second")(hidden),
    }
    network = keras.Model(inputs, outputs)
    network.compile(
        "sgd",
        loss={"first": "mse", "second": "mse"},
        loss_weights={"first": 1.0, "second": 0.0},
    )
    return network


EPOCHS = 8
"""

RULE = Rule(
    code="GG207",
    name="zero-loss-weight",
    kind="zero",
    matches=lambda finding: finding.cause == "loss_weight",
    message="`loss_weights` in compile is 0 for this loss",
    why=(
        "Keras multiplies each loss, and therefore its gradient, by its weight "
        "in `loss_weights`."
    ),
    help=(
        Remedy(
            text="give the loss a weight above zero",
            before='loss_weights={"first": 1.0, "second": 0.0}',
            after='loss_weights={"first": 1.0, "second": 0.5}',
        ),
        Remedy(
            text="freeze the layers that only this loss trains",
            before="network = keras.Model(inputs, outputs)",
            after=(
                "network = keras.Model(inputs, outputs)\n"
                'network.get_layer("second").trainable = False'
            ),
        ),
    ),
    bad=_BAD,
    good=_BAD.replace('"second": 0.0', '"second": 0.5'),
)
