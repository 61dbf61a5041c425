"""GG222: a weight that was spoiled before this step."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import keras
import numpy as np

SAVED = np.full((8, 3), np.nan)


def model():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", name="hidden"),
            keras.layers.Dense(3, name="head"),  # [nonfinite-weight]
        ]
    )
    network.get_layer("head").kernel.assign(SAVED)
    network.compile("sgd", loss="mse")
    return network
"""

RULE = Rule(
    code="GG222",
    name="nonfinite-weight",
    kind="nonfinite",
    matches=lambda finding: finding.cause == "weight",
    message="a weight is NaN or Inf before the step begins",
    why=(
        "An earlier update has spoiled it, or it was loaded like that. What "
        "is computed from it is then NaN or Inf as well."
    ),
    help=(
        Remedy(
            text="check what is loaded",
            before="model.load_weights(path)",
            after=(
                "model.load_weights(path)\n"
                "for weight in model.get_weights():\n"
                "    assert np.isfinite(weight).all()"
            ),
        ),
        Remedy(
            text="or skip the updates that would spoil a weight",
            before="GradHealthCallback()",
            after='GradHealthCallback(on_nonfinite="skip")',
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("np.nan", "0.1").replace("  # [nonfinite-weight]", ""),
)
