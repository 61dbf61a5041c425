"""Models whose training step calls a `tf.function`."""

import keras
import tensorflow as tf

from tests.fitting import X

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "adam": lambda: keras.optimizers.Adam(0.01),
}


class Inside(keras.Model):
    """Its update is a `tf.function`."""

    def __init__(self, is_random=False):
        super().__init__()
        middle = []
        if is_random:
            middle = [
                keras.layers.BatchNormalization(),
                keras.layers.Dropout(0.4, seed=3),
            ]
        self.body = keras.Sequential(
            [keras.layers.Dense(5), *middle, keras.layers.Dense(3)]
        )

    def call(self, x, training=False):
        """Predicts."""
        return self.body(x, training=training)

    def gradients_of(self, x, y):
        """The gradients of the mean error, and it."""
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(x, training=True) - y))
        return tape.gradient(loss, self.trainable_variables), loss

    @tf.function
    def update(self, x, y):
        """Makes one update."""
        gradients, loss = self.gradients_of(x, y)
        self.optimizer.apply(gradients, self.trainable_variables)
        return loss

    def train_step(self, data):
        """One update."""
        return {"error": self.update(*data)}


def compiled(eager, optimizer="sgd", is_random=False):
    """Returns a function that makes a model that is built."""

    def make():
        model = Inside(is_random)
        model.compile(OPTIMIZERS[optimizer](), run_eagerly=eager)
        model(X)
        return model

    return make


class Helped(Inside):
    """A helper of its loss is a `tf.function` that makes a variable."""

    def __init__(self):
        super().__init__()
        self.scale = None

    @tf.function
    def error(self, y, y_pred):
        """Makes its variable in its first call."""
        if self.scale is None:
            self.scale = tf.Variable(2.0, trainable=False)
        return tf.reduce_mean(tf.square(y - y_pred)) * self.scale

    def train_step(self, data):
        """The update is made outside of the function."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.error(y, self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"error": loss}


class Rounded(Inside):
    """Its loss is cut off."""

    @tf.function
    def update(self, x, y):
        """Makes no update."""
        with tf.GradientTape() as tape:
            y_pred = tf.round(self(x, training=True))  # cut
            loss = tf.reduce_mean(tf.square(y_pred - y))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return loss


class Compiled(Inside):
    """XLA compiles its update, which the model knows nothing of."""

    @tf.function(jit_compile=True)
    def update(self, x, y):
        """Makes one update."""
        gradients, loss = self.gradients_of(x, y)
        self.optimizer.apply(gradients, self.trainable_variables)
        return loss


class Again(Inside):
    """Calls its function twice in a step."""

    def train_step(self, data):
        """Two updates."""
        self.update(*data)
        return {"error": self.update(*data)}


class Scaled(Inside):
    """Asks its optimizer for the loss scale."""

    @tf.function
    def update(self, x, y):
        """Makes one update."""
        with tf.GradientTape() as tape:
            error = tf.square(self(x, training=True) - tf.cast(y, "float16"))
            loss = 1e-7 * tf.cast(tf.reduce_mean(error), "float32")
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return loss
