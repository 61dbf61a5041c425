"""Operations without gradient that were given one on purpose."""

import keras
import tensorflow as tf

from .build import compile_with, dense, integers, normal, regression


def between(function, outputs=1, width=8, loss="mse", activation=None):
    """Returns a model with `function` between two dense layers."""
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(width, activation=activation),
            keras.layers.Lambda(function),
            keras.layers.Dense(outputs),
        ]
    )
    compile_with(model, loss)
    return model, normal(16, 4), normal(16, outputs)


def straight_through_round():
    """Rounded codes in the forward pass, identity in the backward pass."""
    return between(lambda x: x + tf.stop_gradient(tf.round(x) - x))


def straight_through_sign():
    """A binarised layer with tf.custom_gradient."""

    @tf.custom_gradient
    def binarise(x):
        """Sign of x; the gradient passes where |x| <= 1."""
        return tf.sign(x), lambda upstream: tf.where(
            tf.abs(x) <= 1.0, upstream, 0.0
        )

    return between(binarise)


def straight_through_in_loss():
    """The rounding stands in the loss instead of the model."""

    def loss(y_true, y_pred):
        """Squared error of whole numbers."""
        rounded = y_pred + tf.stop_gradient(tf.round(y_pred) - y_pred)
        return tf.reduce_mean(tf.square(y_true - rounded))

    return regression(loss)


def spiking_neuron():
    """A step function whose gradient is that of a sigmoid."""

    @tf.custom_gradient
    def spike(x):
        """Zero or one; the gradient is that of a steep sigmoid."""
        slope = tf.sigmoid(4.0 * x)
        return tf.cast(
            x > 0.0, tf.float32
        ), lambda upstream: upstream * 4.0 * slope * (1.0 - slope)

    return between(spike)


def fake_quantisation():
    """Quantisation-aware training with TensorFlow's own op."""
    return between(
        lambda x: tf.quantization.fake_quant_with_min_max_args(x, -6, 6)
    )


def hard_attention():
    """One place is chosen by argmax; the softmax takes the gradient."""

    def attend(x):
        """Keeps the best of each row."""
        soft = tf.nn.softmax(x)
        hard = tf.one_hot(tf.argmax(x, axis=-1), 8)
        return x * (soft + tf.stop_gradient(hard - soft))

    return between(attend)


@keras.saving.register_keras_serializable("healthy")
class GumbelSoftmax(keras.layers.Layer):
    """Draws from a categorical distribution."""

    hard = False

    def build(self, input_shape):
        """Makes the random state."""
        self.seed_generator = keras.random.SeedGenerator(1)

    def call(self, logits):
        """Returns soft samples, or hard ones with a soft gradient."""
        uniform = keras.random.uniform(
            tf.shape(logits), minval=1e-6, seed=self.seed_generator
        )
        noise = -tf.math.log(-tf.math.log(uniform))
        soft = tf.nn.softmax((logits + noise) / 0.7)
        if not self.hard:
            return soft
        choice = tf.one_hot(tf.argmax(soft, axis=-1), tf.shape(soft)[-1])
        return tf.stop_gradient(choice - soft) + soft


def gumbel_softmax():
    """Soft samples."""
    return between(GumbelSoftmax())


def gumbel_straight_through():
    """Hard samples in the forward pass, soft in the backward pass."""
    layer = GumbelSoftmax()
    layer.hard = True
    return between(layer)


def gradient_reversal():
    """A domain classifier that works against the features (DANN)."""

    @tf.custom_gradient
    def reverse(x):
        """Identity whose gradient changes sign."""
        return tf.identity(x), lambda upstream: -0.1 * upstream

    inputs = keras.Input((4,))
    features = keras.layers.Dense(8, activation="relu")(inputs)
    label = keras.layers.Dense(1, name="label")(features)
    reversed_features = keras.layers.Lambda(reverse)(features)
    domain = keras.layers.Dense(1, activation="sigmoid", name="domain")(
        reversed_features
    )
    model = keras.Model(inputs, {"label": label, "domain": domain})
    compile_with(model, {"label": "mse", "domain": "binary_crossentropy"})
    targets = {"label": normal(16, 1), "domain": integers(2, 16, 1)}
    return model, normal(16, 4), targets


def one_path_stopped():
    """Half of the features pass stop_gradient, the other half does not."""
    return between(lambda x: tf.concat([x, tf.stop_gradient(x) ** 2], axis=-1))


def recomputed_layer():
    """A block whose activations are computed again in the backward pass."""
    inner = dense(8)
    outer = keras.Sequential([keras.Input((4,)), inner])

    @keras.saving.register_keras_serializable("healthy")
    class Recomputed(keras.Model):
        """Runs the block under tf.recompute_grad."""

        def build(self, input_shape):
            """Makes the block and the head."""
            self.block = outer
            self.head = keras.layers.Dense(1)
            self.head.build((None, 8))

        def call(self, inputs):
            """Returns the head's answer."""
            return self.head(tf.recompute_grad(self.block)(inputs))

    model = compile_with(Recomputed(), "mse")
    return model, normal(16, 4), normal(16, 1)


CASES = (
    straight_through_round,
    straight_through_sign,
    straight_through_in_loss,
    spiking_neuron,
    fake_quantisation,
    hard_attention,
    gumbel_softmax,
    gumbel_straight_through,
    gradient_reversal,
    one_path_stopped,
    recomputed_layer,
)
NO_SINGLE_LOSS = (gradient_reversal,)
