"""GG306: a compiled loss that Keras calls and does not add."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import keras


def model():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", name="hidden"),
            keras.layers.Dense(3, name="head"),
        ]
    )
    network.compile("sgd", loss=["mse", "mae"])
    return network
"""

RULE = Rule(
    code="GG306",
    name="loss-left-out",
    kind="unused",
    matches=lambda finding: finding.cause == "loss_left_out",
    message="`{loss}` is compiled and never added to the total",
    why=(
        "Where a model returns one tensor and compile gets a list of losses, "
        "Keras calls them all and trains with the first one only."
    ),
    help=(
        Remedy(
            text="write one loss that returns the sum",
            before='loss=["mse", "mae"]',
            after=(
                "def loss(y_true, y_pred):\n"
                "    square = keras.losses.mean_squared_error(y_true, y_pred)\n"
                "    return square + keras.losses.mean_absolute_error("
                "y_true, y_pred)"
            ),
        ),
        Remedy(
            text="or leave it out, if it is to be looked at only",
            before='loss=["mse", "mae"]',
            after='loss="mse", metrics=["mae"]',
        ),
    ),
    bad=_BAD,
    good=_BAD.replace('loss=["mse", "mae"]', 'loss="mse", metrics=["mae"]'),
)
