"""The layers that Keras does not bring."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("benchmarks")
class Encoder(keras.layers.Layer):
    """One block of a transformer: attention, then two dense layers.

    Args:
        width: Units of its input and output.
        num_heads: Heads of the attention.
    """

    def __init__(self, width, num_heads, **kwargs):
        super().__init__(**kwargs)
        self.attention = keras.layers.MultiHeadAttention(
            num_heads, width // num_heads
        )
        self.first_norm = keras.layers.LayerNormalization()
        self.second_norm = keras.layers.LayerNormalization()
        self.hidden = keras.layers.Dense(4 * width, activation="gelu")
        self.out = keras.layers.Dense(width)

    def build(self, shape):
        """Builds the layers inside."""
        self.attention.build(shape, shape)
        self.first_norm.build(shape)
        self.second_norm.build(shape)
        self.hidden.build(shape)
        self.out.build((*shape[:-1], self.hidden.units))

    def call(self, x):
        """Adds attention and the dense layers to `x`."""
        x = x + self.attention(*2 * (self.first_norm(x),))
        return x + self.out(self.hidden(self.second_norm(x)))


class ManyWeights(keras.layers.Layer):
    """Adds up many small weights, with few operations.

    Args:
        number: How many.
    """

    def __init__(self, number, **kwargs):
        super().__init__(**kwargs)
        self.number = number

    def build(self, shape):
        """Makes the weights."""
        self.small = [
            self.add_weight(shape=(1, shape[-1]), name=f"weight_{n}")
            for n in range(self.number)
        ]

    def call(self, x):
        """Multiplies `x` by their sum."""
        weights = keras.ops.concatenate(self.small, axis=0)
        return x * keras.ops.mean(weights, axis=0)


class Rounding(keras.layers.Layer):
    """The cut: values pass, their gradient does not."""

    def call(self, x):
        """Rounds to tenths."""
        return keras.ops.round(10.0 * x) / 10.0


class Chain(keras.layers.Layer):
    """A number of operations in a row.

    Args:
        number: How many.
    """

    def __init__(self, number, **kwargs):
        super().__init__(**kwargs)
        self.number = number

    def call(self, x):
        """Takes the hyperbolic tangent over and over."""
        for _ in range(self.number):
            x = keras.ops.tanh(x)
        return x


class OwnStep(keras.Sequential):
    """A `Sequential` whose `train_step` is written out."""

    def train_step(self, data):
        """Makes one update; returns the loss."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        weights = self.trainable_variables
        gradients = tape.gradient(loss, weights)
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return {"loss": loss}
