"""GG262: a loss scale that is halved too often."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import keras


def model():
    half = {"dtype": "mixed_float16"}
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", name="hidden", **half),
            keras.layers.Dense(3, name="head", **half),
        ]
    )
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(), dynamic_growth_steps=2
    )
    network.compile(optimizer, "mse")
    return network


EPOCHS = 40
"""

RULE = Rule(
    code="GG262",
    name="falling-loss-scale",
    kind="underflow",
    matches=lambda finding: finding.cause == "falling_scale",
    message="the loss scale is halved repeatedly",
    why=(
        "A dynamic loss scale is halved, and the step skipped, when a scaled "
        "gradient is not finite. Once the scale has settled this is rare, "
        "unless batches overflow float16 or the scale is raised too often."
    ),
    help=(
        Remedy(
            text="double the scale less often (the default is 2000 steps)",
            before="dynamic_growth_steps=2",
            after="dynamic_growth_steps=2000",
        ),
        Remedy(
            text="compute in bfloat16, which has the range of float32",
            before='half = {"dtype": "mixed_float16"}',
            after='half = {"dtype": "mixed_bfloat16"}',
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("dynamic_growth_steps=2", "dynamic_growth_steps=2000"),
)
