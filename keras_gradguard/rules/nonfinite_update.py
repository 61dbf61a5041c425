"""GG233: an update that makes weights NaN or Inf of a finite gradient."""

from keras_gradguard.records.kinds import LARGEST_ROOT
from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import keras
from keras import ops


def objective(y_true, y_pred):
    error = y_true - y_pred
    return 1e21 * ops.mean(ops.square(error))  # [nonfinite-update]


def model():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", name="hidden"),
            keras.layers.Dense(3, name="head"),
        ]
    )
    network.compile("adam", loss=objective)
    return network


ARGUMENTS = {"on_nonfinite": "skip"}
"""


def _is_large(finding):
    size = finding.evidence.get("largest_gradient")
    return size is not None and size > LARGEST_ROOT / 1e3


RULE = Rule(
    code="GG233",
    name="nonfinite-update",
    kind="nonfinite",
    matches=lambda finding: finding.cause == "update",
    message="the update is NaN or Inf, the gradient is not",
    why=(
        "An optimizer can overflow where the gradient does not: Adam, RMSprop "
        "and clipping by norm square it, and the square of more than 1.8e19 "
        "is Inf in float32. A learning rate that is not finite does the same."
    ),
    help=(
        Remedy(
            text="scale the loss and the targets down, so that gradients stay "
            "far below 1e19",
            before="return 1e21 * ops.mean(ops.square(error))",
            after="return ops.mean(ops.square(error))",
            when=_is_large,
        ),
        Remedy(
            text="clip each element, which squares nothing",
            before='network.compile("adam", loss=objective)',
            after=(
                "network.compile(\n"
                "    keras.optimizers.Adam(clipvalue=1.0), loss=objective\n"
                ")"
            ),
            when=_is_large,
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("1e21 * ", "").replace("  # [nonfinite-update]", ""),
)
