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
        "With a single class, a softmax always returns 1. The cross-entropies "
        "of Keras use the logits instead of the output of the softmax, so the "
        "loss may change while the prediction does not."
    ),
    help=(
        Remedy(
            text="use a sigmoid for a single unit",
            before='1, activation="softmax"',
            after='1, activation="sigmoid"',
            when=lambda finding: (
                finding.evidence.get("activation") == "softmax"
            ),
        ),
        Remedy(
            text="use a binary cross-entropy for a single unit",
            before='loss="categorical_crossentropy"',
            after='loss="binary_crossentropy"',
            when=lambda finding: "categorical" in (finding.loss or ""),
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [one-class]", "").replace("softmax", "sigmoid"),
)
