"""Training steps of a user: several optimizers, several updates, models."""

import keras
import tensorflow as tf

from tests.fitting import X


def perceptron(outputs, name):
    """A model of two layers on the four columns of `X`."""
    layers = [
        keras.layers.Dense(5, activation="tanh", name=f"{name}_hidden"),
        keras.layers.Dense(outputs, name=f"{name}_out"),
    ]
    return keras.Sequential([keras.Input((4,)), *layers], name=name)


class Adversaries(keras.Model):
    """The GAN of the Keras guide, `cut` between both on demand."""

    def __init__(self, cut=None):
        super().__init__()
        self.generator = perceptron(4, "generator")
        self.discriminator = perceptron(1, "discriminator")
        self.cut = cut or (lambda fake: fake)

    def compile(self, generating, judging, **arguments):
        """Takes an optimizer for each of both."""
        super().compile(**arguments)
        self.generating, self.judging = generating, judging
        self.entropy = keras.losses.BinaryCrossentropy(from_logits=True)

    def call(self, x):
        """Generates."""
        return self.generator(x)

    def losses_of(self, real):
        """Both losses, each from a tape of its own."""
        ones, zeros = tf.ones((len(X), 1)), tf.zeros((len(X), 1))
        noise = tf.reverse(real, [0])
        fake = self.cut(self.generator(noise, training=True))
        with tf.GradientTape() as judge:
            scores = self.discriminator(tf.concat([real, fake], 0))
            truth = tf.concat([ones, zeros], 0)
            judged = self.entropy(truth, scores)
        with tf.GradientTape() as forge:
            fake = self.cut(self.generator(noise, training=True))
            forged = self.entropy(ones, self.discriminator(fake))
        return (judge, judged), (forge, forged)

    def train_step(self, data):
        """One update of each, of its own variables alone."""
        (judge, judged), (forge, forged) = self.losses_of(data)
        names = self.discriminator.trainable_variables
        self.judging.apply(judge.gradient(judged, names), names)
        names = self.generator.trainable_variables
        self.generating.apply(forge.gradient(forged, names), names)
        return {"judged": judged, "forged": forged}


def adversaries(cut=None, eager=False, **arguments):
    """A compiled GAN."""
    model = Adversaries(cut)
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.optimizers.Adam(0.02),
        run_eagerly=eager,
        **arguments,
    )
    model.build((None, 4))
    model.discriminator.build((None, 4))
    return model


class Wrapper(keras.Model):
    """A model of one perceptron with two losses."""

    def __init__(self):
        super().__init__()
        self.body = perceptron(3, "body")

    def call(self, x):
        """Predicts."""
        return self.body(x)

    def gradients_of(self, data, power):
        """Gradients of the mean error to some power, and its value."""
        x, y = data
        with tf.GradientTape() as tape:
            error = tf.abs(self(x, training=True) - y) ** power
            loss = tf.reduce_mean(error)
        return tape.gradient(loss, self.trainable_variables), loss


class Twice(Wrapper):
    """One optimizer, all variables, two updates in a step."""

    def train_step(self, data):
        """The second update sees the weights after the first."""
        for power in (2.0, 4.0):
            gradients, loss = self.gradients_of(data, power)
            self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


class Shared(Wrapper):
    """Two optimizers for the same variables, in a list."""

    def compile(self, more, **arguments):
        """Takes further optimizers."""
        super().compile(**arguments)
        self.more = more

    def train_step(self, data):
        """One loss for each."""
        for power, optimizer in zip((2.0, 4.0), self.more, strict=True):
            gradients, loss = self.gradients_of(data, power)
            optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


class Halves(Wrapper):
    """One optimizer that updates one half of the variables after the other."""

    def train_step(self, data):
        """Both halves by the gradients at the same weights."""
        gradients, loss = self.gradients_of(data, 2.0)
        variables = self.trainable_variables
        self.optimizer.build(variables)
        for half in (slice(2), slice(2, 4)):
            self.optimizer.apply(gradients[half], variables[half])
        return {"loss": loss}


class Couple(keras.Model):
    """Two compiled models that teach each other, their optimizers inside."""

    def __init__(self, cut=None):
        super().__init__()
        self.pupils = [perceptron(3, name) for name in ("left", "right")]
        for pupil in self.pupils:
            pupil.compile(keras.optimizers.Adam(0.01), "mse")
        self.cut = cut or (lambda y: y)

    def call(self, x):
        """The mean of both."""
        return self.pupils[0](x) + self.pupils[1](x)

    def train_step(self, data):
        """Each by its own optimizer."""
        x, y = data
        for pupil in self.pupils:
            with tf.GradientTape() as tape:
                y_pred = self.cut(pupil(x, training=True))
                loss = pupil.compute_loss(x=x, y=y, y_pred=y_pred)
            names = pupil.trainable_variables
            pupil.optimizer.apply(tape.gradient(loss, names), names)
        return {"loss": loss}
