"""GG232: a gradient that is very large and still growing."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import both, optimizer


def _is_recurrent(finding):
    return any("recurrent" in path for path in finding.variables)


_BAD = """\
import keras


def inputs(x):
    return 30.0 * x


def targets(y):
    return 1e6 * y


def model():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, name="head"),  # [exploding-gradient]
        ]
    )
    network.compile("sgd", loss="mse")
    return network


EPOCHS = 8
"""

RULE = Rule(
    code="GG232",
    name="exploding-gradient",
    kind="exploding",
    matches=lambda finding: finding.cause == "exploding",
    message="the gradient is very large and still growing",
    why=(
        "Large inputs, weights or targets make a large gradient. With plain "
        "SGD the update is then large too, and the next gradient even larger."
    ),
    help=(
        Remedy(
            text="lower the learning rate",
            before="optimizer = keras.optimizers.SGD(0.01)",
            after="optimizer = keras.optimizers.SGD(0.001)",
        ),
        Remedy(
            text="clip the norm of all gradients together",
            before="optimizer = keras.optimizers.SGD(rate)",
            after="optimizer = keras.optimizers.SGD(0.01, global_clipnorm=1.0)",
            when=both(optimizer("SGD"), _is_recurrent),
        ),
        Remedy(
            text="scale inputs and targets",
            before="model.fit(x, y)",
            after=(
                "x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-7)\n"
                "y = (y - y.mean(axis=0)) / (y.std(axis=0) + 1e-7)\n"
                "model.fit(x, y)"
            ),
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [exploding-gradient]", "")
    .replace("30.0 * x", "x / (x.std(axis=0) + 1e-7)")
    .replace("1e6 * y", "y"),
)
