"""GG215: a cross-entropy over one class."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import keras


def targets(y):
    return y[:, :1]


def model():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", name="hidden"),
            keras.layers.Dense(  # [one-class]
                1, activation="softmax", name="head"
            ),
        ]
    )
    network.compile("sgd", loss="binary_crossentropy")
    return network
"""

RULE = Rule(
    code="GG215",
    name="one-class",
    kind="wrong",
    matches=lambda finding: finding.cause == "one_class",
    message="a softmax over one class: the model can only predict 1",
    why=(
        "The share of one class among one is always 1. A cross-entropy of "
        "Keras' takes the logits from behind the activation, so the loss may "
        "change while the prediction does not."
    ),
    help=(
        Remedy(
            text="use a sigmoid for a single unit",
            before='1, activation="softmax"',
            after='1, activation="sigmoid"',
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [one-class]", "").replace("softmax", "sigmoid"),
)
