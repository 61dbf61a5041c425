"""GG302: an output without a loss."""

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
        "Variables are trained only through a loss, and no loss depends on the "
        "variables that only this output uses."
    ),
    help=(
        Remedy(
            text="give the output a loss, and targets in fit",
            before='loss={"head": "mse"}',
            after='loss={"head": "mse", "spare": "mse"}',
        ),
        Remedy(
            text="remove the output from the model that is trained",
            before='keras.Model(inputs, {"head": head, "spare": spare})',
            after='keras.Model(inputs, {"head": head})',
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [output-without-loss]", "")
    .replace('loss={"head": "mse"}', 'loss={"head": "mse", "spare": "mse"}')
    .replace('{"head": y}', '{"head": y, "spare": y[:, :2]}'),
)
