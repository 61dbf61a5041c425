"""GG262: a loss scale that does not hold."""

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
    message="the loss scale is halved again and again",
    why=(
        "A dynamic loss scale skips a step whose scaled gradient is not finite "
        "and halves itself. After it has found its level this is rare; here "
        "some batches overflow float16, or it is raised too often."
    ),
    help=(
        Remedy(
            text="give the scale time before it is doubled (2000 in Keras)",
            before="LossScaleOptimizer(optimizer, dynamic_growth_steps=2)",
            after="LossScaleOptimizer(optimizer)",
        ),
        Remedy(
            text="or compute in bfloat16, which has the range of float32",
            before='keras.mixed_precision.set_global_policy("mixed_float16")',
            after='keras.mixed_precision.set_global_policy("mixed_bfloat16")',
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("dynamic_growth_steps=2", "dynamic_growth_steps=2000"),
)
