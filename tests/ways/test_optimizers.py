"""What optimizers do with gradients after us: clip, gather, decay, average."""

import keras
import pytest

from tests.fitting import X, Y
from tests.ways.alike import alike, fitting, same_norms, tape_norms

OPTIONS = {
    "plain": {},
    "gradient_accumulation_steps": {"gradient_accumulation_steps": 2},
    "clipnorm": {"clipnorm": 0.1},
    "clipvalue": {"clipvalue": 0.01},
    "global_clipnorm": {"global_clipnorm": 0.1},
    "use_ema": {"use_ema": True, "ema_overwrite_frequency": 2},
    "weight_decay": {"weight_decay": 0.05},
    "loss_scale_factor": {"loss_scale_factor": 8.0},
}
OPTIMIZERS = sorted(
    name
    for name, kind in vars(keras.optimizers).items()
    if isinstance(kind, type)
    and issubclass(kind, keras.optimizers.Optimizer)
    and kind is not keras.optimizers.Optimizer
    and name != "LossScaleOptimizer"
)
assert {"SGD", "Adam", "AdamW", "Lion"} <= set(OPTIMIZERS)


def wrapped(name):
    """What an optimizer must be given: the one that is wrapped, if any."""
    if name != "MultiOptimizer":
        return ()
    adam = {".*/gamma": keras.optimizers.Adam(0.01)}
    default = keras.optimizers.SGD(0.1)
    return (keras.optimizers.OptimizerMap(default, adam),)


def makes(name, eager=False, **options):
    """Returns a function that makes a model whose gradients are of all kinds.

    Those of the normalisations are products, those of the shared and of the
    regularised layer sums: a graph optimizer would join them with the update.
    """

    def make():
        layers = keras.layers
        inputs = keras.Input((4,))
        decay = keras.regularizers.L2(0.01)
        # A bias before a BatchNormalization would have rounding as gradient.
        first = layers.Dense(6, kernel_regularizer=decay, use_bias=False)
        hidden = layers.BatchNormalization()(first(inputs))
        shared = layers.Dense(6, activation="tanh")
        hidden = layers.LayerNormalization()(shared(shared(hidden)))
        model = keras.Model(inputs, layers.Dense(3)(layers.PReLU()(hidden)))
        optimizer = getattr(keras.optimizers, name)(*wrapped(name), **options)
        model.compile(optimizer, "mse", metrics=["mae"], run_eagerly=eager)
        return model

    return make


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(name):
    """Each one of Keras leaves the same bits and gets the tape's norms."""
    make = makes(name)
    _, callback = alike(make, fitting(batch_size=16))
    rows = callback.report.variables
    assert {"ok"} == {row.status for row in rows}
    assert () == callback.report.diagnoses


@pytest.mark.parametrize("eager", [False, True], ids=["compiled", "eager"])
@pytest.mark.parametrize("option", OPTIONS)
def test_options(option, eager):
    """Norms are taken before clipping and gathering, the bits stay."""
    make = makes("AdamW", eager, **OPTIONS[option])
    _, callback = alike(make, fitting(batch_size=16, epochs=1))
    same_norms(callback, tape_norms(make, X, Y))
    alike(make, fitting(batch_size=5))


def test_steps_are_updates():
    """With accumulation the step number counts updates, not micro-batches."""
    make = makes("SGD", gradient_accumulation_steps=3)
    _, callback = alike(make, fitting(batch_size=4, epochs=2))
    assert 2 == callback.report.step
