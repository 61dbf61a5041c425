"""GG315: a weight that its gradient does not change."""

from keras_gradguard.rules._rule import Remedy, Rule


def _is_short(finding):
    return not {"bfloat16", "float16"}.isdisjoint(finding.variable_dtypes)


_BAD = """\
import keras


def model():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", name="hidden"),
            keras.layers.LayerNormalization(  # [weight-stands-still]
                dtype="bfloat16", name="scale"
            ),
            keras.layers.Dense(3, name="head"),
        ]
    )
    network.compile(keras.optimizers.SGD(0.001), loss="mse")
    return network


EPOCHS = 8
"""

RULE = Rule(
    code="GG315",
    name="weight-stands-still",
    kind="not_applied",
    matches=lambda finding: True,
    message="the weight has a gradient but is not updated",
    why=(
        "An update smaller than the last digit of the weight is rounded away: "
        "bfloat16 has 2 to 3 digits, float16 has 3 to 4 and float32 has 7."
    ),
    help=(
        Remedy(
            text="keep the weight in float32; compute in half precision",
            before='dtype="bfloat16"',
            after='dtype="mixed_bfloat16"',
            when=_is_short,
        ),
        Remedy(
            text="raise the learning rate",
            before="keras.optimizers.SGD(1e-9)",
            after="keras.optimizers.SGD(0.01)",
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [weight-stands-still]", "").replace(
        '"bfloat16"', '"mixed_bfloat16"'
    ),
)
