"""What a look at a step would change, wherever the step holds it."""

import cProfile
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback, diagnose
from tests.fitting import MODES, NAMES, X, Y, classifier, fit
from tests.ways.alike import alike, fitting, same_norms, tape_norms

held = {}


class Hidden(keras.Model):
    """Its optimizer, a counter and its noise are none of its attributes."""

    def __init__(self, place):
        super().__init__()
        self.head = keras.layers.Dense(3)
        if place == "object":
            self.box = types.SimpleNamespace(held=held["optimizer"])
        elif place == "layer":
            self.head.helper = held["optimizer"]

    def call(self, x):
        """Predicts."""
        return self.head(x)

    def train_step(self, data):
        """One update, one count, one draw."""
        x, y = data
        held["count"].assign_add(1.0)
        x += held["noise"].normal(tf.shape(x))
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(x) - y)) * held["count"]
        variables = self.trainable_variables
        held["optimizer"].apply(tape.gradient(loss, variables), variables)
        return {"error": loss}


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("place", ["global", "object", "layer"])
def test_state_of_a_step(place, eager):
    """The slots, the count and the noise go on as without the guard."""

    def make():
        held["optimizer"] = keras.optimizers.Adam(0.01)
        held["count"] = tf.Variable(0.0, trainable=False)
        held["noise"] = tf.random.Generator.from_seed(3)
        model = Hidden(place)
        model.compile(run_eagerly=eager)
        model(X)
        held["optimizer"].build(model.trainable_variables)
        return model

    def train(model, callbacks):
        history = fitting(epochs=3)(model, callbacks).history
        kept = [*held["optimizer"].variables, held["noise"].state]
        values = [np.array(keras.ops.convert_to_numpy(v)) for v in kept]
        return history["error"], held["count"].numpy(), values

    _, callback = alike(make, train)
    assert () == callback.report.diagnoses
    known = {row.status for row in callback.report.variables}
    assert known == ({"ok"} if place == "layer" else {"unknown"})


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_count_of_a_loss(eager):
    """A loss that counts its calls in a global is looked at, not counted."""

    def counted(y, y_pred):
        held["count"].assign_add(1.0)
        error = tf.where(y_pred > 0.0, tf.abs(y - y_pred), y - y_pred + 1.0)
        return tf.reduce_mean(error, axis=-1) / held["count"]

    def make():
        held["count"] = tf.Variable(0.0, trainable=False)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        decay = keras.regularizers.L2(0.01)
        model.layers[-1].kernel_regularizer = decay
        model.compile("sgd", counted, run_eagerly=eager)
        return model

    def train(model, callbacks):
        history = fitting(epochs=3)(model, callbacks).history
        return history["loss"], held["count"].numpy()

    alike(make, train)


# What `keras.Model` is made of, a training loop, without the rest.
Trainer = next(kind for kind in keras.Model.__mro__ if "fit" in vars(kind))


class TrainedLayer(Trainer, keras.layers.Dense):
    """A layer that trains itself, as in Keras' own tests."""

    def __init__(self, units):
        keras.layers.Dense.__init__(self, units)
        Trainer.__init__(self)


@pytest.mark.parametrize("xla", [False, True], ids=["graph", "xla"])
def test_layer_that_is_a_trainer(xla):
    """It is watched like a model, and left alone like one."""

    def make():
        model = TrainedLayer(3)
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        model.compile(optimizer, "mse", jit_compile=xla)
        model.build((None, 4))
        return model

    _, callback = alike(make, fitting(batch_size=16, epochs=1))
    same_norms(callback, tape_norms(make))
    callback = GradHealthCallback(every=1)
    alike(make, fitting(epochs=4), callback)
    assert () == callback.report.diagnoses


def test_profiler_of_the_user():
    """A look leaves it alone, and it goes on."""

    def rounded(y_true, y_pred):
        scale = float(tf.reduce_max(tf.abs(y_true)))
        return scale * tf.reduce_mean(tf.square(y_true - tf.round(y_pred)))

    profile = cProfile.Profile()
    model = classifier(rounded, eager=True)
    profile.enable()
    try:
        callback, _ = fit(model)
        report = diagnose(model, X, Y)
        assert sys.getprofile() is profile
    finally:
        profile.disable()
    for found in (callback.report, report):
        assert ["GG105"] == [diagnosis.code for diagnosis in found.diagnoses]
