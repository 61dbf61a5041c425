"""GG222: a weight that was NaN or Inf before this step."""

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
    matches=lambda finding: finding.cause in ("weight", "spoiled_weight"),
    message="a weight is NaN or Inf before the step begins",
    why=(
        "An earlier update produced the NaN or Inf, or the loaded weights "
        "already contained it. Everything computed from it is NaN or Inf as "
        "well."
    ),
    help=(
        Remedy(
            text="check the loaded weights with np.isfinite",
            when=lambda finding: not finding.step,
        ),
        Remedy(
            text=(
                "stop before the update that makes the weight NaN or Inf: "
                'GradHealthCallback(on_nonfinite="raise") names its cause'
            ),
            when=lambda finding: bool(finding.step),
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("np.nan", "0.1").replace("  # [nonfinite-weight]", ""),
)
