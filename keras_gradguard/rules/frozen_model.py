"""GG316: a model of which every weight is frozen."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import keras


def model():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8, activation="relu", name="hidden")(inputs)
    outputs = keras.layers.Dense(3, name="head")(hidden)
    network = keras.Model(inputs, outputs, name="discriminator")
    network.compile("adam", loss="mse")
    network.trainable = False
    return network
"""

RULE = Rule(
    code="GG316",
    name="frozen-model",
    kind="not_applied",
    matches=lambda finding: finding.cause == "frozen",
    message="no variable of the model is trainable",
    why=(
        "Keras 3 reads `trainable` in the first training step, not in compile. "
        "A discriminator frozen for the generator is frozen in its own `fit` "
        "too."
    ),
    help=(
        Remedy(
            text="unfreeze the model before its own training",
            before="discriminator.fit(x, y)",
            after="discriminator.trainable = True\ndiscriminator.fit(x, y)",
        ),
        Remedy(
            text="write one train_step that trains both with two optimizers",
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("trainable = False", "trainable = True"),
)
