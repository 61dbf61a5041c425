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
    message="`{loss}` is compiled but not added to the total loss",
    why=(
        "If a model has one output and compile gets a list of losses, Keras "
        "calls all of them but trains with the first only."
    ),
    help=(
        Remedy(
            text="write one loss that returns the sum",
            before='network.compile("sgd", loss=["mse", "mae"])',
            after=(
                "def both(y_true, y_pred):\n"
                "    square = keras.losses.mean_squared_error(y_true, y_pred)\n"
                "    return square + keras.losses.mean_absolute_error("
                "y_true, y_pred)\n"
                "\n"
                'network.compile("sgd", loss=both)'
            ),
        ),
        Remedy(
            text="make it a metric if you only want to monitor it",
            before='loss=["mse", "mae"]',
            after='loss="mse", metrics=["mae"]',
        ),
    ),
    bad=_BAD,
    good=_BAD.replace('loss=["mse", "mae"]', 'loss="mse", metrics=["mae"]'),
)
