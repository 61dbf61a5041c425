"""GG309: a layer that the model calls and does not know."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import keras


def model():
    inner = keras.layers.Dense(8, name="inner")  # [untracked-layer]
    inputs = keras.Input((4,))
    hidden = keras.layers.Lambda(lambda x: inner(x), name="wrapped")(inputs)
    network = keras.Model(inputs, keras.layers.Dense(3, name="head")(hidden))
    network.compile("adam", loss="mse")
    return network
"""

RULE = Rule(
    code="GG309",
    name="untracked-layer",
    kind="unused",
    matches=lambda finding: finding.cause == "untracked_layer",
    message="the model calls a layer that it does not hold",
    why=(
        "A model trains the layers that it is made of, and those that a layer "
        "holds as attributes. One that a function captures is neither."
    ),
    help=(
        Remedy(
            text="call the layer itself, or hold it in a layer of your own",
            before="hidden = keras.layers.Lambda(lambda x: inner(x))(inputs)",
            after="hidden = inner(inputs)",
        ),
        Remedy(
            text="or say that it is not trained",
            before="inner = keras.layers.Dense(8)",
            after="inner = keras.layers.Dense(8, trainable=False)",
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [untracked-layer]", "").replace(
        'keras.layers.Lambda(lambda x: inner(x), name="wrapped")(inputs)',
        "inner(inputs)",
    ),
)
