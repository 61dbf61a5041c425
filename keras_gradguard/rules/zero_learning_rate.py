"""GG311: a learning rate of zero."""

from keras_gradguard.rules._rule import Remedy, Rule

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
    message="the learning rate is 0, so no weight moves",
    why=(
        "The optimizer multiplies each update by the learning rate. A "
        "schedule at its end or a callback may have brought it down to 0."
    ),
    help=(
        Remedy(
            text="let the schedule end above zero",
            before=(
                "keras.optimizers.schedules.PolynomialDecay(\n"
                "    0.01, decay_steps=1000, end_learning_rate=0.0\n"
                ")"
            ),
            after=(
                "keras.optimizers.schedules.PolynomialDecay(\n"
                "    0.01, decay_steps=1000, end_learning_rate=0.0001\n"
                ")"
            ),
        ),
        Remedy(
            text="or give it as many steps as the training has",
            before="decay_steps=1000",
            after="decay_steps=epochs * steps_per_epoch",
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("end_learning_rate=0.0", "end_learning_rate=0.001"),
)
