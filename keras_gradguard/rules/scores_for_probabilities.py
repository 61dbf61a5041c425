"""GG213: a cross-entropy of probabilities that gets scores."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import both, line, no

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


def _has_activation(finding):
    """Whether the output is bounded by an activation that is not right."""
    return "activation" in finding.evidence


_is_made = line(r"losses\.\w+\(|ntropy\(")
_is_binary = line("(?i)binary")

RULE = Rule(
    code="GG213",
    name="scores-for-probabilities",
    kind="wrong",
    matches=lambda finding: finding.cause == "scores",
    message="the loss gets scores as probabilities",
    why=(
        "Without from_logits, a cross-entropy of Keras' clips its input to "
        "[0, 1]. Scores outside of it get no gradient, and the others the "
        "gradient of another loss."
    ),
    help=(
        Remedy(
            text="use a sigmoid, whose values are probabilities",
            before='activation="tanh", name="head"',
            after='activation="sigmoid", name="head"',
            when=both(_has_activation, _is_binary),
        ),
        Remedy(
            text="use a softmax, whose values are probabilities",
            before='activation="tanh", name="head"',
            after='activation="softmax", name="head"',
            when=both(_has_activation, no(_is_binary)),
        ),
        Remedy(
            text="tell the loss that it gets scores",
            before="keras.losses.BinaryCrossentropy()",
            after="keras.losses.BinaryCrossentropy(from_logits=True)",
            when=both(no(_has_activation), _is_made, _is_binary),
        ),
        Remedy(
            text="tell the loss that it gets scores",
            before="keras.losses.CategoricalCrossentropy()",
            after="keras.losses.CategoricalCrossentropy(from_logits=True)",
            when=both(no(_has_activation), _is_made, no(_is_binary)),
        ),
        Remedy(
            text="give the loss with from_logits=True, not its name",
            before='loss="binary_crossentropy"',
            after="loss=keras.losses.BinaryCrossentropy(from_logits=True)",
            when=both(no(_has_activation), no(_is_made), _is_binary),
        ),
        Remedy(
            text="give the loss with from_logits=True, not its name",
            before='loss="categorical_crossentropy"',
            after="loss=keras.losses.CategoricalCrossentropy(from_logits=True)",
            when=both(no(_has_activation), no(_is_made), no(_is_binary)),
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
