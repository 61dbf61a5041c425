"""GG217: a batch whose labels are all masked, or have weight 0."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import keras
import numpy as np


def targets(y):
    return np.zeros(len(y), "int32")


def model():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", name="hidden"),
            keras.layers.Dense(3, name="head"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(  # [labels-not-counted]
        from_logits=True, ignore_class=0
    )
    network.compile("sgd", loss=loss)
    return network
"""

RULE = Rule(
    code="GG217",
    name="labels-not-counted",
    kind="zero",
    matches=lambda finding: finding.cause == "uncounted",
    message="no label of the first batch counts",
    why=(
        "Each label of the batch is ignored or has the sample weight 0, so "
        "the loss is 0 and trains nothing. Other batches may be different."
    ),
    help=(
        Remedy(
            text="ignore a number that stands for no class",
            before="from_logits=True, ignore_class=0",
            after="from_logits=True, ignore_class=-1",
            when=lambda finding: "ignore_class" in finding.evidence,
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [labels-not-counted]", "").replace(
        "ignore_class=0", "ignore_class=-1"
    ),
)
