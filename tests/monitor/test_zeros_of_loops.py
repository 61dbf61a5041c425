"""Gradients that are zero in each step of an eager loop."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import watch
from tests.fitting import X, Y, marked


def trained(loss, weights=(1.0,) * 8, units=3):
    """Trains one step for each weight of the loss; returns the report."""
    keras.utils.set_random_seed(4)
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(units, name="head")]
    )
    optimizer = keras.optimizers.SGD(0.01)
    with watch(model, every=1) as health:
        for weight in weights:
            with tf.GradientTape() as tape:
                value = loss(tf.constant(Y), model(X), weight)
            variables = model.trainable_variables
            gradients = tape.gradient(value, variables)
            optimizer.apply(gradients, variables)
    return health.report


def masked(y_true, y_pred, weight):
    """No label is one that the mask lets pass."""
    mask = tf.cast(tf.equal(y_true, -1.0), tf.float32)  # cut
    return weight + tf.reduce_sum(mask * tf.square(y_true - y_pred))


def below(y_true, y_pred, weight):
    """A ReLU behind which no score is left."""
    scores = tf.nn.relu(y_pred - 99.0)  # cut
    return tf.reduce_mean(tf.square(weight * y_true - scores))


def of_one(y_true, y_pred, weight):
    """Shares of each unit by itself."""
    share = tf.nn.softmax(y_pred[..., None])  # cut
    return tf.reduce_mean(tf.square(weight * y_true - share[..., 0]))


def weighted(y_true, y_pred, weight):
    """Counts in some steps only."""
    return weight * tf.reduce_mean(tf.square(y_true - y_pred))


def satisfied(y_true, y_pred, weight):
    """A hinge whose margin all scores keep."""
    return weight * tf.reduce_mean(tf.nn.relu(-99.0 - y_pred))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("loss", "code"), [(masked, "GG206"), (below, "GG201"), (of_one, "GG205")]
)
def test_line_of_a_zero_that_lasts(loss, code):
    """The first step is looked at; what it shows is told if it lasts."""
    (found,) = trained(loss).diagnoses
    assert (code, marked(loss)[1]) == (found.code, found.line)
    assert ("zero", "error") == (found.kind, found.severity)
    assert ["head/bias", "head/kernel"] == sorted(
        "/".join(path.split("/")[-2:]) for path in found.variables
    )
    # One step proves no more than a derivative that is zero for any data.
    early = trained(loss, (1.0,) * 2).diagnoses
    assert bool(early) == (loss is of_one)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("loss", "weights"),
    [
        (weighted, (0.0, 1.0, *[0.0] * 7)),
        (weighted, np.tile([0.0, 1.0], 5).astype("float32")),
        (satisfied, (1.0,) * 8),
    ],
)
def test_zero_that_is_no_fault(loss, weights):
    """It comes and goes, or nothing is left to learn."""
    assert () == trained(loss, weights).diagnoses
