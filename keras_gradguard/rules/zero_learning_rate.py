"""GG311: a learning rate of zero, or too small to change a weight."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import both, call, either, no

_CAUSES = ("learning_rate", "tiny_learning_rate")
_DECAYS = ("PolynomialDecay", "CosineDecay", "ExponentialDecay")


def _is_schedule(finding):
    return "schedule" in finding.evidence


def _decays(finding):
    return finding.evidence.get("schedule") in _DECAYS


def _is_polynomial(finding):
    return finding.evidence.get("schedule") == "PolynomialDecay"


_watches = call(r"ReduceLROnPlateau\(")


_BAD = """\
import keras


def model():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", name="hidden"),
            keras.layers.Dense(3, name="head"),
        ]
    )
    rate = keras.optimizers.schedules.PolynomialDecay(  # [zero-learning-rate]
        0.01, decay_steps=2, end_learning_rate=0.0
    )
    network.compile(keras.optimizers.SGD(rate), loss="mse")
    return network


EPOCHS = 10
"""

RULE = Rule(
    code="GG311",
    name="zero-learning-rate",
    kind="not_applied",
    matches=lambda finding: finding.cause in _CAUSES,
    message="the learning rate is 0 or too small",
    why=(
        "The optimizer multiplies each update by the learning rate, and "
        "float32 rounds off what is smaller than 1e-7 of a weight. A decay to "
        "zero is normal; training on after its end has no effect."
    ),
    help=(
        Remedy(
            text="make the schedule as long as the training",
            before="decay_steps=2",
            after="decay_steps=1000",
            when=_decays,
        ),
        Remedy(
            text="end the schedule above zero",
            before="end_learning_rate=0.0",
            after="end_learning_rate=0.001",
            when=_is_polynomial,
        ),
        Remedy(
            text="let the schedule return more than 1e-7, until the last step",
            when=both(_is_schedule, no(_decays)),
        ),
        Remedy(
            text='give a `min_lr`, and mode="max" for what is to grow',
            before='ReduceLROnPlateau("accuracy", mode="min")',
            after='ReduceLROnPlateau("accuracy", mode="max", min_lr=1e-5)',
            when=_watches,
        ),
        Remedy(
            text="set a learning rate above zero, also in callbacks",
            before="keras.optimizers.SGD(0.0)",
            after="keras.optimizers.SGD(0.01)",
            when=no(either(_is_schedule, _watches)),
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [zero-learning-rate]", "").replace(
        "end_learning_rate=0.0", "end_learning_rate=0.001"
    ),
)
