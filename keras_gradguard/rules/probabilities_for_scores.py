"""GG214: a cross-entropy of scores that gets probabilities."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import keras


def model():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", name="hidden"),
            keras.layers.Dense(3, activation="softmax", name="head"),
            keras.layers.Reshape((3,)),
        ]
    )
    loss = keras.losses.CategoricalCrossentropy(  # [probabilities-for-scores]
        from_logits=True
    )
    network.compile("sgd", loss=loss)
    return network
"""

RULE = Rule(
    code="GG214",
    name="probabilities-for-scores",
    kind="wrong",
    matches=lambda finding: finding.cause == "probabilities",
    message="the loss gets probabilities as scores",
    why=(
        "With from_logits, a cross-entropy applies a sigmoid or a softmax "
        "itself. After one in the model, its probabilities stay far from 0 "
        "and 1, and the gradient is small where the model is wrong."
    ),
    help=(
        Remedy(
            text="tell the loss that it gets probabilities",
            before="from_logits=True",
            after="from_logits=False",
        ),
        Remedy(
            text="or leave the activation to the loss",
            before='keras.layers.Dense(3, activation="softmax", name="head")',
            after='keras.layers.Dense(3, name="head")',
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [probabilities-for-scores]", "").replace(
        "from_logits=True", "from_logits=False"
    ),
)
