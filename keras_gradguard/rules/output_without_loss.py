"""GG302: an output that no loss looks at."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import keras


def model():
    inputs = keras.Input((4,))
    h = keras.layers.Dense(8, activation="relu", name="hidden")(inputs)
    head = keras.layers.Dense(3, name="head")(h)
    spare = keras.layers.Dense(2, name="spare")(h)  # [output-without-loss]
    network = keras.Model(inputs, {"head": head, "spare": spare})
    network.compile("adam", loss={"head": "mse"})
    return network


def targets(y):
    return {"head": y}
"""

RULE = Rule(
    code="GG302",
    name="output-without-loss",
    kind="unused",
    matches=lambda finding: finding.cause == "output_without_loss",
    message="an output of the model has no loss",
    why=(
        "A variable learns only through a loss, and what leads to this "
        "output alone leads to none."
    ),
    help=(
        Remedy(
            text="give the output a loss and targets",
            before='model.compile("adam", loss={"head": "mse"})',
            after=(
                'model.compile("adam", loss={"head": "mse", "spare": "mse"})'
            ),
        ),
        Remedy(
            text="or leave the output out of the model that is trained",
            before='keras.Model(inputs, {"head": head, "spare": spare})',
            after='keras.Model(inputs, {"head": head})',
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [output-without-loss]", "")
    .replace('loss={"head": "mse"}', 'loss={"head": "mse", "spare": "mse"}')
    .replace('{"head": y}', '{"head": y, "spare": y[:, :2]}'),
)
