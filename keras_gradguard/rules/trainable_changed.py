"""GG314: a layer that was unfrozen without a new compile."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import no


def _is_in_fit(finding):
    return "changed" in finding.evidence


_BAD = """\
import keras
import numpy as np


def model():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(  # [trainable-changed]
                8, activation="tanh", name="hidden"
            ),
            keras.layers.Dense(3, name="head"),
        ]
    )
    network.get_layer("hidden").trainable = False
    network.compile("sgd", loss="mse")
    network.fit(np.ones((16, 4)), np.ones((16, 3)), verbose=0)
    network.get_layer("hidden").trainable = True
    return network


EPOCHS = 8
"""

RULE = Rule(
    code="GG314",
    name="trainable-changed",
    kind="not_applied",
    matches=lambda finding: finding.cause == "trainable_changed",
    message="`trainable` changed after compile",
    why=(
        "The optimizer and the training step collect the trainable variables "
        "once. What is unfrozen later is trained only after a new compile."
    ),
    help=(
        Remedy(
            text="compile again after changing trainable, before fit",
            before="layer.trainable = True\nmodel.fit(x, y)",
            after=(
                "layer.trainable = True\n"
                'model.compile("sgd", loss="mse")\n'
                "model.fit(x, y)"
            ),
            when=no(_is_in_fit),
        ),
        Remedy(
            text="split the training in two fits: no callback can compile",
            before="model.fit(x, y, callbacks=[Unfreeze()])",
            after=(
                "model.fit(x, y)\n"
                "layer.trainable = True\n"
                'model.compile("sgd", loss="mse")\n'
                "model.fit(x, y)"
            ),
            when=_is_in_fit,
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [trainable-changed]", "").replace(
        "trainable = True\n",
        'trainable = True\n    network.compile("sgd", loss="mse")\n',
    ),
)
