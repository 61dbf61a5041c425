"""GG213: a cross-entropy of probabilities that gets scores."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import line, no

_HEAD = """\
import keras


def model():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", name="hidden"),
            keras.layers.Dense(3, name="head"),
        ]
    )
"""
_MADE = r"losses\.\w+\(|ntropy\("

RULE = Rule(
    code="GG213",
    name="scores-for-probabilities",
    kind="wrong",
    matches=lambda finding: finding.cause == "scores",
    message="this loss expects probabilities and gets scores",
    why=(
        "Without from_logits, a cross-entropy of Keras' clips its input to "
        "[0, 1]. Scores outside of it get no gradient, and the others the "
        "gradient of another loss."
    ),
    help=(
        Remedy(
            text="tell the loss that it gets scores",
            before="keras.losses.BinaryCrossentropy()",
            after="keras.losses.BinaryCrossentropy(from_logits=True)",
            when=line(_MADE),
        ),
        Remedy(
            text="give the loss with from_logits=True, not its name",
            before='loss="binary_crossentropy"',
            after="loss=keras.losses.BinaryCrossentropy(from_logits=True)",
            when=no(line(_MADE)),
        ),
    ),
    bad=_HEAD
    + """\
    loss = keras.losses.BinaryCrossentropy()  # [scores-for-probabilities]
    network.compile("sgd", loss=loss)
    return network
""",
    good=_HEAD
    + """\
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    network.compile("sgd", loss=loss)
    return network
""",
)
