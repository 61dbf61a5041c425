"""GG205: a softmax over a single value."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import both, in_layer, in_loss, no


def _is_attention(finding):
    return "attention" in (finding.layer or "")


_BAD = """\
import keras


def targets(y):
    return y[:, :1]


def model():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", name="hidden"),
            keras.layers.Dense(  # [one-unit-softmax]
                1, activation="softmax", name="head"
            ),
        ]
    )
    network.compile("sgd", loss="mse")
    return network


EPOCHS = 8
"""

RULE = Rule(
    code="GG205",
    name="one-unit-softmax",
    kind="zero",
    ops=("Softmax",),
    matches=lambda finding: finding.cause == "one_unit_softmax",
    message="a softmax over a single value is always 1",
    why=(
        "A softmax divides by the sum over its axis. With one value on that "
        "axis the result is 1 and its derivative is zero."
    ),
    help=(
        Remedy(
            text="attend over more than one key: the weight of one is always 1",
            when=_is_attention,
        ),
        Remedy(
            text="use a sigmoid for a single unit",
            before='1, activation="softmax"',
            after='1, activation="sigmoid"',
            when=both(in_layer, no(_is_attention)),
        ),
        Remedy(
            text="use one unit per class",
            before='keras.layers.Dense(1, activation="softmax")',
            after='keras.layers.Dense(3, activation="softmax")',
            when=both(in_layer, no(_is_attention)),
        ),
        Remedy(
            text="take the softmax over the axis of the classes",
            before="share = ops.softmax(y_pred[..., None])",
            after="share = ops.softmax(y_pred[..., None], axis=-2)",
            when=in_loss,
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [one-unit-softmax]", "").replace(
        "softmax", "sigmoid"
    ),
)
