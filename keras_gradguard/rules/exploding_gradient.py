"""GG232: a gradient that is very large and still growing."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import both, call, either, evidence, no

# Their step is as long for a large gradient as for a small one.
_NORMALIZED = (
    *("Adam", "AdamW", "Adamax", "Nadam", "Lion", "Adafactor", "Muon"),
    *("RMSprop", "Adagrad", "Adadelta"),
)
# A rate at which these still train.
_USUAL_RATE = 0.01
_THOUSANDS = 1e3


def _is_recurrent(finding):
    return any("recurrent" in path for path in finding.variables)


def _takes_long_steps(finding):
    name = finding.evidence.get("optimizer", finding.optimizer)
    if name in _NORMALIZED:
        return finding.evidence.get("learning_rate", 0.0) > _USUAL_RATE
    return True


def _grows_with_gradient(finding):
    name = finding.evidence.get("optimizer", finding.optimizer)
    return name is not None and name not in _NORMALIZED


_is_wide = evidence("radius", lambda radius: True)
_has_large_data = either(
    evidence("largest_input", lambda size: size >= _THOUSANDS),
    evidence("largest_target", lambda size: size >= _THOUSANDS),
)
_is_sum = evidence("reduction", lambda reduction: reduction == "sum")


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
        "Where a step is too long, the weights overshoot and the next gradient "
        "is larger still. Large inputs, sums and recurrent matrices make it so."
    ),
    help=(
        Remedy(
            text="scale inputs and targets",
            before="model.fit(x, y)",
            after=(
                "x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-7)\n"
                "y = (y - y.mean(axis=0)) / (y.std(axis=0) + 1e-7)\n"
                "model.fit(x, y)"
            ),
            when=_has_large_data,
        ),
        Remedy(
            text="take the mean over the batch, not the sum",
            before="return ops.sum(ops.square(y_true - y_pred))",
            after="return ops.mean(ops.square(y_true - y_pred))",
            when=_is_sum,
        ),
        Remedy(
            text="initialise the recurrent matrix with a spectral radius of 1",
            before="recurrent_initializer=keras.initializers.Identity(2.0)",
            after='recurrent_initializer="orthogonal"',
            when=both(_is_wide, call("recurrent_initializer")),
        ),
        Remedy(
            text="clip the norm of all gradients together",
            before="optimizer = keras.optimizers.SGD(rate)",
            after="optimizer = keras.optimizers.SGD(0.01, global_clipnorm=1.0)",
            when=both(_grows_with_gradient, _is_recurrent),
        ),
        Remedy(
            text="lower the learning rate",
            before="optimizer = keras.optimizers.SGD(0.01)",
            after="optimizer = keras.optimizers.SGD(0.001)",
            when=both(_takes_long_steps, no(_is_sum)),
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [exploding-gradient]", "")
    .replace("30.0 * x", "x / (x.std(axis=0) + 1e-7)")
    .replace("1e6 * y", "y"),
)
