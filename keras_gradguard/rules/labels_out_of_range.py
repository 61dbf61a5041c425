"""GG216: labels that the output or the loss does not allow."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import no


def _is_relu(finding):
    return finding.evidence.get("activation") == "relu"


_BAD = """\
import keras


def targets(y):
    return 2.0 * y - 1.0


def model():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", name="hidden"),
            keras.layers.Dense(3, activation="sigmoid", name="head"),
        ]
    )
    loss = keras.losses.BinaryCrossentropy()  # [labels-out-of-range]
    network.compile("sgd", loss=loss)
    return network
"""

RULE = Rule(
    code="GG216",
    name="labels-out-of-range",
    kind="wrong",
    matches=lambda finding: finding.cause == "labels_out_of_range",
    message="labels that this output can never give",
    why=(
        "A sigmoid or softmax gives numbers from 0 to 1, a ReLU none below 0. "
        "For a label outside of that no prediction is right: the scores grow "
        "without end, or the ReLU ends at 0 for every row."
    ),
    help=(
        Remedy(
            text="scale the labels to 0 and 1",
            before="2.0 * y - 1.0",
            after="y",
            when=no(_is_relu),
        ),
        Remedy(
            text="leave out the activation: most labels are negative",
            before='3, activation="relu"',
            after="3",
            when=_is_relu,
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [labels-out-of-range]", "").replace(
        "2.0 * y - 1.0", "y"
    ),
)
