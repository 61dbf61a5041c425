"""GG311: a learning rate of zero."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import no


def _is_schedule(finding):
    return "schedule" in finding.evidence


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
    rate = keras.optimizers.schedules.PolynomialDecay(
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
    matches=lambda finding: finding.cause == "learning_rate",
    message="the learning rate is 0: no weight is updated",
    why=(
        "The optimizer multiplies each update by the learning rate. A decay "
        "to zero is normal; training on after its end has no effect."
    ),
    help=(
        Remedy(
            text="make the schedule as long as the training",
            before="decay_steps=2",
            after="decay_steps=1000",
            when=_is_schedule,
        ),
        Remedy(
            text="end the schedule above zero",
            before="end_learning_rate=0.0",
            after="end_learning_rate=0.001",
            when=_is_schedule,
        ),
        Remedy(
            text="set a learning rate above zero, also in callbacks",
            before="keras.optimizers.SGD(0.0)",
            after="keras.optimizers.SGD(0.01)",
            when=no(_is_schedule),
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("end_learning_rate=0.0", "end_learning_rate=0.001"),
)
