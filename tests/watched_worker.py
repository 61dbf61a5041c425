"""One of several machines that train a model in a custom loop under `watch`.

Run as `python watched_worker.py OUT watched|bare LOSS`, with `TF_CONFIG` set;
it writes its weights, warnings and report to OUT.
"""

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


def main(out, kind, loss):
    """Trains for a few steps; each machine has its own batch."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
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
            value = globals()[loss](y, model(x, training=True)) / 2
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        replica = tf.distribute.get_replica_context()
        summed = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        return [tf.norm(gradient) for gradient in summed]

    @tf.function
    def train(x, y):
        return strategy.run(step, args=(x, y))

    found = {"norms": [], "error": None, "report": None}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if kind == "watched":
                with watch(model, log_dir=f"{out}_logs", every=2) as health:
                    for _ in range(5):
                        norms = train(x, y)
                found["report"] = health.report.to_dict()
            else:
                for _ in range(5):
                    norms = train(x, y)
            found["norms"] = [float(norm) for norm in norms]
        except ValueError as error:
            found["error"] = f"{type(error).__name__}: {error}"
    found["warnings"] = [str(w.message) for w in caught]
    found["weights"] = [w.tolist() for w in model.get_weights()]
    with open(f"{out}.json", "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
