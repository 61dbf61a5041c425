"""GG312: a constraint that undoes each update."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import call, no

_BAD = """\
import keras


class Quarters(keras.constraints.Constraint):
    def __call__(self, w):
        return keras.ops.round(4.0 * w) / 4.0


def model():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", name="hidden"),
            keras.layers.Dense(  # [constraint-holds-weight]
                3, kernel_constraint=Quarters(), name="head"
            ),
        ]
    )
    network.compile("sgd", loss="mse")
    return network


EPOCHS = 10
"""

RULE = Rule(
    code="GG312",
    name="constraint-holds-weight",
    kind="not_applied",
    matches=lambda finding: finding.cause == "constraint",
    message="the constraint undoes each update",
    why=(
        "A constraint runs after each update and replaces the weight. If it "
        "returns the old value, the weight is never trained."
    ),
    help=(
        Remedy(
            text="normalise along an axis with more than one element",
            before="kernel_constraint=keras.constraints.UnitNorm()",
            after="kernel_constraint=keras.constraints.UnitNorm(axis=1)",
            when=call("UnitNorm"),
        ),
        Remedy(
            text="bound the weight instead of rounding it",
            before="return keras.ops.round(4.0 * w) / 4.0",
            after="return keras.ops.clip(w, -1.0, 1.0)",
            when=no(call("UnitNorm")),
        ),
        Remedy(
            text="keep the exact weight, and round it where it is used",
            when=no(call("UnitNorm")),
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [constraint-holds-weight]", "").replace(
        "keras.ops.round(4.0 * w) / 4.0", "keras.ops.clip(w, -1.0, 1.0)"
    ),
)
