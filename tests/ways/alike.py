"""What every way to train is held to: the same bits, the norms, no trace."""

import warnings

import keras
import numpy as np
import tensorflow as tf

from keras_gradguard import GradHealthCallback
from tests.fitting import X, Y

SEED = 5


def alike(make, train, callback=None):
    """Trains twice, bare and guarded, and compares all that is left.

    Args:
        make: Returns a compiled model.
        train: Trains it: `train(model, callbacks)`; what it returns is
            compared too.
        callback: The callback of the guarded run.

    Returns:
        The guarded model and its callback.
    """
    bare, expected = trained(make, train, [])
    callback = callback or GradHealthCallback(every=1)
    guarded, found = trained(make, train, [callback])
    same_bits(bare, guarded)
    if isinstance(expected, keras.callbacks.History):
        expected, found = dict(expected.history), dict(found.history)
        for name in ("grad_norm", "skipped_steps"):
            found.pop(name, None)
    np.testing.assert_equal(found, expected)
    return guarded, callback


def trained(make, train, callbacks):
    """Makes and trains a model; returns it and what `train` returned."""
    keras.utils.set_random_seed(SEED)
    model = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        done = train(model, list(callbacks))
    return model, done


def same_bits(bare, guarded):
    """All weights, metrics and optimizer slots agree; no attribute is new."""
    for old, new in zip(state(bare), state(guarded), strict=True):
        np.testing.assert_array_equal(old, new)
    for old, new in zip(belongings(bare), belongings(guarded), strict=True):
        np.testing.assert_equal(new, old)


def state(model):
    """Values of all variables of a model and its optimizers."""
    found = list(model.variables)
    for optimizer in optimizers(model):
        found += optimizer.variables
    return [keras.ops.convert_to_numpy(variable) for variable in found]


def belongings(model):
    """Names of the attributes of a model, its layers and its optimizers."""
    function = model.train_function
    parts = [*model._flatten_layers(), *optimizers(model)]
    return [
        getattr(function, "__qualname__", None),
        getattr(function, "__module__", None),
        *(sorted(vars(part)) for part in parts),
    ]


def optimizers(model):
    """The optimizers held by a model or by a model inside it."""
    found = []
    for part in model._flatten_layers():
        for value in vars(part).values():
            if isinstance(value, keras.optimizers.Optimizer):
                if all(value is not other for other in found):
                    found.append(value)
    return found


def tape_norms(make, x=X, y=Y, sample_weight=None):
    """Norms by a tape on a twin of the model, float64 NumPy from there."""
    keras.utils.set_random_seed(SEED)
    model = make()
    with tf.GradientTape() as tape:
        y_pred = model(x, training=True)
        loss = model.compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight
        )
    return norms_of(tape.gradient(loss, model.trainable_variables))


def norms_of(gradients):
    """L2 norms of gradients, dense or sparse."""
    return [
        np.linalg.norm(np.asarray(tf.convert_to_tensor(g), "float64"))
        for g in gradients
    ]


def same_norms(callback, expected):
    """The report has these norms, in model order, all of them `ok`."""
    rows = callback.report.variables
    np.testing.assert_allclose([row.norm for row in rows], expected, rtol=1e-5)
    assert {"ok"} == {row.status for row in rows}
    assert () == callback.report.diagnoses


def fitting(x=X, y=Y, **arguments):
    """Returns a `train` for `alike`: two epochs, the last batch short."""
    arguments = {"batch_size": 6, "epochs": 2, "verbose": 0, **arguments}

    def train(model, callbacks):
        return model.fit(x, y, callbacks=callbacks, **arguments)

    return train


def one_batch(x=X, y=Y, **arguments):
    """Returns a `train` for `alike` of one single step."""
    return fitting(x, y, **{"batch_size": 16, "epochs": 1, **arguments})
