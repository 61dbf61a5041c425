"""GG309: a layer that the model calls and does not track."""

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
    message="the model calls a layer that it does not track",
    why=(
        "A model trains its own layers and those that its layers hold as "
        "attributes, but not a layer that a function captures."
    ),
    help=(
        Remedy(
            text=(
                "call the layer directly, or make it an attribute of a custom "
                "layer"
            ),
            before=(
                "hidden = keras.layers.Lambda(lambda x: inner(x), "
                'name="wrapped")(inputs)'
            ),
            after="hidden = inner(inputs)",
        ),
        Remedy(
            text="mark it as not trainable",
            before='keras.layers.Dense(8, name="inner")',
            after='keras.layers.Dense(8, name="inner", trainable=False)',
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [untracked-layer]", "").replace(
        'keras.layers.Lambda(lambda x: inner(x), name="wrapped")(inputs)',
        "inner(inputs)",
    ),
)
