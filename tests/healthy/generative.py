"""Models that draw samples, play against each other, or look codes up."""

import keras
import tensorflow as tf

from .build import compile_with, dense, normal

layers = keras.layers


class Sampling(layers.Layer):
    """Draws a code and adds the divergence from a normal distribution."""

    def build(self, input_shape):
        """Makes the random state."""
        self.seed_generator = keras.random.SeedGenerator(1)

    def call(self, inputs):
        """Reparameterised sample."""
        mean, spread = tf.split(inputs, 2, axis=-1)
        self.add_loss(
            -0.5 * tf.reduce_mean(1.0 + spread - mean**2 - tf.exp(spread))
        )
        noise = keras.random.normal(tf.shape(mean), seed=self.seed_generator)
        return mean + tf.exp(0.5 * spread) * noise


def variational_autoencoder():
    """The divergence comes by add_loss, the rest by compile."""
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4), Sampling(), dense(4, inputs=2)]
    )
    x = normal(16, 4)
    return compile_with(model, "mse"), x, x


class Annealed(keras.Model):
    """A variational autoencoder with its own training step."""

    def __init__(self):
        """Makes encoder, decoder and the weight of the divergence."""
        super().__init__()
        self.encoder = dense(4)
        self.decoder = dense(4, inputs=2)
        self.weight = self.add_weight(
            shape=(), initializer="zeros", trainable=False, name="weight"
        )
        self.built = True

    def train_step(self, x):
        """One step; the divergence counts more from step to step."""
        with tf.GradientTape() as tape:
            mean, spread = tf.split(self.encoder(x), 2, axis=-1)
            noise = tf.random.normal(tf.shape(mean))
            answer = self.decoder(mean + tf.exp(0.5 * spread) * noise)
            divergence = -0.5 * tf.reduce_mean(
                1.0 + spread - mean**2 - tf.exp(spread)
            )
            loss = tf.reduce_mean(tf.square(x - answer))
            loss += self.weight * divergence
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        self.weight.assign(tf.minimum(1.0, self.weight + 0.1))
        return {"objective": loss}


def annealed_autoencoder():
    """A loss term whose weight begins at zero."""
    return compile_with(Annealed()), normal(16, 4), None


class Codebook(layers.Layer):
    """Replaces each row by the nearest code (VQ-VAE)."""

    def build(self, input_shape):
        """Makes the codes."""
        self.codes = self.add_weight(
            shape=(8, input_shape[-1]), initializer="uniform", name="codes"
        )

    def call(self, inputs):
        """Argmin to choose, straight-through to learn."""
        distance = tf.reduce_sum(
            tf.square(inputs[:, None] - self.codes[None]), axis=-1
        )
        chosen = tf.gather(self.codes, tf.argmin(distance, axis=-1))
        commitment = tf.square(tf.stop_gradient(chosen) - inputs)
        codebook = tf.square(chosen - tf.stop_gradient(inputs))
        self.add_loss(tf.reduce_mean(0.25 * commitment + codebook))
        return inputs + tf.stop_gradient(chosen - inputs)


def codebook_autoencoder():
    """Two losses, each with one side behind stop_gradient."""
    model = keras.Sequential(
        [keras.Input((4,)), dense(2), Codebook(), dense(4, inputs=2)]
    )
    x = normal(16, 4)
    return compile_with(model, "mse"), x, x


class Adversaries(keras.Model):
    """A generator and a critic, each with an optimizer of its own."""

    def __init__(self):
        """Makes both networks."""
        super().__init__()
        self.generator = dense(4, inputs=3)
        self.critic = dense(1)
        self.built = True

    def compile(self, generator_optimizer, critic_optimizer, **arguments):
        """Takes the two optimizers; the model's own stays unused."""
        super().compile(**arguments)
        self.generator_optimizer = generator_optimizer
        self.critic_optimizer = critic_optimizer

    def train_step(self, real):
        """One step of the critic, one of the generator."""
        noise = tf.random.normal((tf.shape(real)[0], 3))
        with tf.GradientTape() as tape:
            fake = self.generator(noise)
            critic_loss = tf.reduce_mean(
                tf.nn.softplus(self.critic(fake))
                + tf.nn.softplus(-self.critic(real))
            )
        variables = self.critic.trainable_variables
        gradients = tape.gradient(critic_loss, variables)
        self.critic_optimizer.apply(gradients, variables)
        with tf.GradientTape() as tape:
            score = self.critic(self.generator(noise))
            loss = tf.reduce_mean(tf.nn.softplus(-score))
        variables = self.generator.trainable_variables
        gradients = tape.gradient(loss, variables)
        self.generator_optimizer.apply(gradients, variables)
        return {"critic": critic_loss, "generator": loss}


def adversaries():
    """Alternating steps; each optimizer sees half of the weights."""
    model = compile_with(
        Adversaries(),
        generator_optimizer=keras.optimizers.Adam(1e-3),
        critic_optimizer=keras.optimizers.Adam(2e-3),
    )
    return model, normal(16, 4), None


class Denoiser(keras.Model):
    """Guesses the noise in a row (diffusion)."""

    def __init__(self):
        """Makes the network and the schedule."""
        super().__init__()
        self.network = dense(4, inputs=5)
        self.signal = tf.linspace(0.99, 0.01, 10)
        self.built = True

    def train_step(self, x):
        """One step at times that are drawn as integers."""
        rows = tf.shape(x)[0]
        time = tf.random.uniform((rows,), maxval=10, dtype=tf.int32)
        signal = tf.gather(self.signal, time)[:, None]
        noise = tf.random.normal(tf.shape(x))
        noisy = tf.sqrt(signal) * x + tf.sqrt(1.0 - signal) * noise
        clock = tf.cast(time, tf.float32)[:, None] / 10.0
        with tf.GradientTape() as tape:
            guess = self.network(tf.concat([noisy, clock], axis=1))
            loss = self.compute_loss(y=noise, y_pred=guess)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"objective": loss}


def denoiser():
    """Gather by drawn integers; the data are the only input."""
    return compile_with(Denoiser(), "mse"), normal(16, 4), None


CASES = (
    variational_autoencoder,
    annealed_autoencoder,
    codebook_autoencoder,
    adversaries,
    denoiser,
)
NO_SINGLE_LOSS = (annealed_autoencoder, adversaries)
