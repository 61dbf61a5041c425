"""One of several machines that train a model in a custom loop under `watch`.

Run as `python watched_worker.py OUT`, with `TF_CONFIG` set; it writes its
weights, warnings and reports to OUT.json.
"""

import contextlib
import json
import sys
import warnings

import keras
import numpy as np
import tensorflow as tf

from keras_gradguard import watch


def mse(y, p):
    """Cuts nothing."""
    return tf.reduce_mean(tf.square(y - p))


def rounded(y, p):
    """Cuts everything."""
    return tf.reduce_mean(tf.square(y - tf.round(p)))  # cut


def train(strategy, folder, loss, is_watched):
    """Trains for a few steps; each machine has its own batch."""
    rank = strategy.cluster_resolver.task_id
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(3, "tanh", name="hidden"),
                keras.layers.Dense(2, name="head"),
            ]
        )
        optimizer = keras.optimizers.Adam(0.1)
    generator = np.random.default_rng(rank)
    x = tf.constant(generator.normal(size=(8, 4)), tf.float32)
    y = tf.constant(generator.normal(size=(8, 2)), tf.float32)

    def step(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True)) / 2
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        replica = tf.distribute.get_replica_context()
        summed = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        return [tf.norm(gradient) for gradient in summed]

    @tf.function
    def run(x, y):
        return strategy.run(step, args=(x, y))

    found = {"norms": [], "error": None, "report": None}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        health = contextlib.nullcontext()
        if is_watched:
            health = watch(model, log_dir=folder, every=2)
        try:
            with health:
                for _ in range(5):
                    norms = run(x, y)
            found["norms"] = [float(norm) for norm in norms]
        except ValueError as error:
            found["error"] = f"{type(error).__name__}: {error}"
    if is_watched:
        found["report"] = health.report.to_dict()
    found["warnings"] = [str(w.message) for w in caught]
    found["weights"] = [w.tolist() for w in model.get_weights()]
    return found


def main(out):
    """Trains bare, watched, and watched with a cut."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    found = {
        "bare": train(strategy, None, mse, False),
        "watched": train(strategy, f"{out}_logs", mse, True),
        "cut": train(strategy, f"{out}_cut", rounded, True),
    }
    with open(f"{out}.json", "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
