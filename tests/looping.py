"""What the tests of `watch` share: models, batches, loops with their lines."""

import warnings

import keras
import numpy as np
import tensorflow as tf

from keras_gradguard import watch

_generator = np.random.default_rng(3)
X = tf.constant(_generator.normal(size=(16, 4)), tf.float32)
Y = tf.constant(_generator.normal(size=(16, 3)), tf.float32)
MODES = ["eager", "graph", "xla"]


def network(*middle, **dense):
    """Returns an uncompiled model of two layers and what is between them."""
    keras.utils.set_random_seed(1)
    hidden = keras.layers.Dense(8, name="hidden", **dense)
    head = keras.layers.Dense(3, name="head", **dense)
    layers = [keras.Input((4,)), hidden, *middle, head]
    return keras.Sequential(layers, name="net")


def compiled(step, mode):
    """Returns a step as the mode has it."""
    if mode == "eager":
        return step
    return tf.function(step, jit_compile=mode == "xla")


def trainer(model, loss, mode="eager", optimizer=None):
    """Returns the plain training step of tutorials, and its optimizer."""
    optimizer = optimizer or keras.optimizers.Adam(0.01)

    def step(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return value

    return compiled(step, mode), optimizer


def loop(model, step, turns=3, **arguments):
    """Runs a step under `watch`.

    Returns:
        The `Watch` and the exception that ended the block, or `None`.
    """
    error = None
    health = watch(model, **{"every": 1, **arguments})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            with health:
                for _ in range(turns):
                    step(X, Y)
                    health.step()
        except Exception as raised:
            error = raised
    return health, error
