"""Models of many kinds, each with data, for what a first `fit` costs."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from benchmarks.compared.blocks import Encoder


def _dense(depth, width, outputs, first=()):
    hidden = [layers.Dense(width, activation="relu") for _ in range(depth)]
    return keras.Sequential([*first, *hidden, layers.Dense(outputs)])


def _scaled():
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())


class Whole(keras.Model):
    """A model around another one, built by its first step."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x, training=False):
        """Runs it."""
        return self.inner(x, training=training)


class OwnStep(Whole):
    """Likewise, with a `train_step` that writes all out."""

    def train_step(self, data):
        """Makes the updates of a batch; returns the loss."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.square(self(x, training=True) - y))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


class Autoencoder(keras.Model):
    """A variational autoencoder with its own `train_step`."""

    def __init__(self):
        super().__init__()
        inputs = [keras.Input((8,))]
        self.encoder = _dense(4, 16, 8, inputs)
        self.decoder = _dense(4, 16, 8, [keras.Input((4,))])
        self.seeds = keras.random.SeedGenerator(0)

    def train_step(self, data):
        """Makes the updates of a batch; returns the loss."""
        x, _ = data
        with tf.GradientTape() as tape:
            mean, log_variance = ops.split(self.encoder(x), 2, axis=-1)
            noise = keras.random.normal(ops.shape(mean), seed=self.seeds)
            code = mean + ops.exp(0.5 * log_variance) * noise
            spread = ops.exp(log_variance) + ops.square(mean)
            loss = ops.mean(ops.square(self.decoder(code) - x))
            loss += 0.5 * ops.mean(spread - log_variance - 1.0)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply(gradients, self.trainable_weights)
        return {"loss": loss}


class Adversaries(keras.Model):
    """A GAN: two models, two optimizers."""

    def __init__(self):
        super().__init__()
        self.generator = _dense(3, 16, 8, [keras.Input((4,))])
        self.critic = _dense(3, 16, 1, [keras.Input((8,))])
        self.seeds = keras.random.SeedGenerator(0)

    def compile(self, optimizer, **compiled):
        """Takes the optimizer of the critic."""
        super().compile(**compiled)
        self.first, self.second = optimizer, keras.optimizers.Adam()

    def train_step(self, data):
        """Makes the updates of a batch; returns the loss."""
        x, _ = data
        noise = keras.random.normal((ops.shape(x)[0], 4), seed=self.seeds)
        with tf.GradientTape() as tape:
            real, fake = self.critic(x), self.critic(self.generator(noise))
            loss = ops.mean(ops.softplus(-real) + ops.softplus(fake))
        variables = self.critic.trainable_weights
        self.first.apply(tape.gradient(loss, variables), variables)
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.softplus(-self.critic(self.generator(noise))))
        variables = self.generator.trainable_weights
        self.second.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


class Attention(layers.Layer):
    """Attention over the nodes of a graph, as in a GAT."""

    def build(self, shape):
        """Makes the weights."""
        self.kernel = self.add_weight((shape[-1], 16), name="kernel")
        self.scores = self.add_weight((32, 1), name="scores")

    def call(self, x):
        """Mixes the nodes that a batch holds."""
        nodes = ops.matmul(x, self.kernel)
        count = ops.shape(nodes)[0]
        left = ops.repeat(nodes[:, None], count, axis=1)
        right = ops.repeat(nodes[None], count, axis=0)
        pairs = ops.concatenate([left, right], axis=-1)
        scores = ops.leaky_relu(ops.matmul(pairs, self.scores))[..., 0]
        return ops.matmul(ops.softmax(scores, axis=-1), nodes)


def _branches():
    inputs = keras.Input((8,))
    hidden = layers.Dense(16, activation="relu")(inputs)
    outputs = {n: layers.Dense(8, name=n)(hidden) for n in ("a", "b", "c")}
    return keras.Model(inputs, layers.Add()(list(outputs.values())))


def _sequence(*stack):
    return keras.Sequential(
        [keras.Input((8,)), layers.Reshape((8, 1)), *stack, layers.Dense(8)]
    )


def _encoder():
    return _sequence(
        layers.Dense(16),
        Encoder(16, num_heads=2),
        Encoder(16, num_heads=2),
        layers.GlobalAveragePooling1D(),
    )


# Each makes `(model, optimizer)`; all take and give eight numbers a row.
KINDS = {
    "built": lambda: (_dense(12, 16, 8, [keras.Input((8,))]), "adam"),
    "built by its first step": lambda: (_dense(12, 16, 8), "adam"),
    "subclass": lambda: (Whole(_dense(12, 16, 8)), "adam"),
    "several branches": lambda: (_branches(), "adam"),
    "dropout and normalization": lambda: (
        keras.Sequential(
            [
                keras.Input((8,)),
                *(
                    part
                    for _ in range(4)
                    for part in (
                        layers.Dense(16),
                        layers.BatchNormalization(),
                        layers.Dropout(0.2),
                    )
                ),
                layers.Dense(8),
            ]
        ),
        "adam",
    ),
    "loss scale": lambda: (
        _dense(12, 16, 8, [keras.Input((8,))]),
        _scaled(),
    ),
    "LSTM": lambda: (_sequence(layers.LSTM(16)), "adam"),
    "graph attention": lambda: (
        Whole(keras.Sequential([Attention(), Attention(), _dense(1, 16, 8)])),
        "adam",
    ),
    "own step": lambda: (OwnStep(_dense(12, 16, 8)), "adam"),
    "own step, transformer": lambda: (OwnStep(_encoder()), "adam"),
    "own step, VAE": lambda: (Autoencoder(), "adam"),
    "own step, GAN": lambda: (Adversaries(), keras.optimizers.Adam()),
}


def trainable(kind):
    """Makes a compiled model of a kind, the same one each time.

    Args:
        kind: A key of `KINDS`.

    Returns:
        `(model, x, y)`; both arrays `[64, 8]`, float32.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).standard_normal((64, 8), "float32")
    model, optimizer = KINDS[kind]()
    model.compile(optimizer=optimizer, loss="mse", jit_compile=False)
    return model, x, x[:, ::-1].copy()
