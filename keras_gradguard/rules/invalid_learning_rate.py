"""GG317: a learning rate that is negative, NaN or infinite."""

from keras_gradguard.rules._rule import Remedy, Rule


def _is_negative(finding):
    rate = finding.evidence.get("learning_rate")
    return rate is not None and rate < 0.0


def _is_not_finite(finding):
    return not _is_negative(finding)


_BAD = """\
import keras


class LinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, first, steps):
        self.first, self.steps = first, steps

    def __call__(self, step):
        left = 1.0 - keras.ops.cast(step, "float32") / self.steps
        return self.first * left  # [invalid-learning-rate]


def model():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", name="hidden"),
            keras.layers.Dense(3, name="head"),
        ]
    )
    rate = LinearDecay(0.01, steps=4)
    network.compile(keras.optimizers.SGD(rate), loss="mse")
    return network


EPOCHS = 10
"""

RULE = Rule(
    code="GG317",
    name="invalid-learning-rate",
    kind="not_applied",
    matches=lambda finding: finding.cause == "invalid_learning_rate",
    message="the rate is negative, NaN or infinite",
    why=(
        "The optimizer subtracts the learning rate times the gradient. With "
        "a negative rate the loss grows; with NaN or Inf each weight becomes "
        "NaN or Inf."
    ),
    help=(
        Remedy(
            text="keep the rate from falling below zero",
            before="return self.first * left",
            after="return self.first * keras.ops.maximum(left, 0.01)",
            when=_is_negative,
        ),
        Remedy(
            text="compute the rate without 0 / 0, 1 / 0 or the root of 0",
            before="self.first / step",
            after="self.first / (step + 1)",
            when=_is_not_finite,
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [invalid-learning-rate]", "").replace(
        "self.first * left", "self.first * keras.ops.maximum(left, 0.01)"
    ),
)
