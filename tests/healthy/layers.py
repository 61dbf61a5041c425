"""Layers that freeze, cast, drop, bin, or begin at zero."""

import keras
import tensorflow as tf

from .build import compile_with, normal

layers = keras.layers


def stack(*middle, shape=(4,), outputs=1, **arguments):
    """Returns the layers, a dense head, and numbers to fit."""
    head = layers.Dense(outputs, dtype="float32")
    model = keras.Sequential([keras.Input(shape), *middle, head])
    compile_with(model, "mse", **arguments)
    return model, normal(16, *shape), normal(16, outputs)


def frozen_layer():
    """The first layer does not learn, and is not meant to."""
    return stack(
        layers.Dense(8, trainable=False, activation="relu"),
        layers.Dense(8, activation="relu"),
    )


def frozen_backbone():
    """Transfer learning: only the new head is trained."""
    backbone = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, strides=2, use_bias=False),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            layers.GlobalAveragePooling2D(),
        ]
    )
    backbone.trainable = False
    return stack(backbone, shape=(8, 8, 3))


def adapter_that_begins_at_zero():
    """LoRA: one factor is zero, so the other waits for a step."""
    model, x, y = stack(layers.Dense(8, activation="tanh"))
    model.layers[0].enable_lora(2)
    return model, x, y


def residual_with_zero_gamma():
    """The last gamma of a block is zero, so the block waits for a step."""
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(inputs)
    x = layers.Conv2D(4, 3, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization(gamma_initializer="zeros")(x)
    x = layers.GlobalAveragePooling2D()(layers.Add()([inputs, x]))
    model = keras.Model(inputs, layers.Dense(1)(x))
    compile_with(model, "mse")
    return model, normal(16, 8, 8, 4), normal(16, 1)


def batch_normalisation():
    """Moving statistics are updated without any gradient."""
    return stack(
        layers.Dense(8, use_bias=False),
        layers.BatchNormalization(),
        layers.Activation("relu"),
    )


def dropout():
    """Half of the units give zeros in each step."""
    return stack(layers.Dense(16, activation="relu"), layers.Dropout(0.5))


def mixed_float16(initial_scale=1024.0, **arguments):
    """Half precision with loss scaling."""
    return stack(
        layers.Dense(16, activation="relu", dtype="mixed_float16"),
        optimizer=keras.optimizers.LossScaleOptimizer(
            keras.optimizers.Adam(), initial_scale=initial_scale
        ),
        **arguments,
    )


def loss_scale_that_settles():
    """The first steps overflow and are skipped, the later ones are not."""
    return mixed_float16(initial_scale=2.0**20, fit={"epochs": 4})


def mixed_bfloat16():
    """Half precision with casts between the layers."""
    return stack(
        layers.Dense(16, activation="relu", dtype="mixed_bfloat16"),
        layers.LayerNormalization(dtype="mixed_bfloat16"),
    )


def normalised_inputs():
    """Preprocessing with statistics that were adapted beforehand."""
    normalise = layers.Normalization()
    normalise.adapt(normal(16, 4))
    return stack(normalise, layers.Dense(8, activation="relu"))


def binned_inputs():
    """Numbers turned into bins, bins into columns, inside the model."""
    return stack(
        layers.Discretization(bin_boundaries=[-0.5, 0.0, 0.5]),
        layers.CategoryEncoding(4, output_mode="multi_hot"),
        layers.Dense(8, activation="relu"),
    )


def augmented_images():
    """Random flips, shifts and contrast before the first weight."""
    return stack(
        layers.RandomFlip(seed=1),
        layers.RandomTranslation(0.1, 0.1, seed=2),
        layers.RandomContrast(0.2, seed=3),
        layers.Conv2D(4, 3, activation="relu"),
        layers.GlobalMaxPooling2D(),
        shape=(8, 8, 3),
    )


class Experts(layers.Layer):
    """A mixture of experts, two of four for each row."""

    def build(self, input_shape):
        """Makes the router and the experts."""
        width = input_shape[-1]
        self.router = self.add_weight(shape=(width, 4), name="router")
        self.experts = self.add_weight(shape=(4, width, 8), name="experts")

    def call(self, inputs):
        """Chooses by index, weighs by the router's own values."""
        values, places = tf.math.top_k(inputs @ self.router, k=2)
        chosen = tf.gather(self.experts, places)
        answers = tf.einsum("bi,bkio->bko", inputs, chosen)
        return tf.einsum("bk,bko->bo", tf.nn.softmax(values), answers)


class IdleExpert(layers.Layer):
    """Sends each row to one of two experts; no row chooses the second."""

    def build(self, shape):
        """Makes the experts."""
        self.experts = [layers.Dense(8), layers.Dense(8)]
        for expert in self.experts:
            expert.build(shape)

    def call(self, x):
        """Gathers the rows of each expert, and puts them back."""
        chosen = tf.cast(tf.reduce_sum(x, axis=-1) > 1e6, tf.int32)
        out = tf.zeros([tf.shape(x)[0], 8])
        for number, expert in enumerate(self.experts):
            rows = tf.where(chosen == number)
            given = expert(tf.gather_nd(x, rows))
            out = tf.tensor_scatter_nd_add(out, rows, given)
        return out


def idle_expert():
    """An expert that gets no row has no gradient to pass on."""
    return stack(IdleExpert())


def mixture_of_experts():
    """Discrete routing: the index has no gradient, the gate has one."""
    return stack(layers.Dense(8, activation="tanh"), Experts())


class Memory(layers.Layer):
    """Reads from a table of slots and writes to a non-trainable one."""

    def build(self, input_shape):
        """Makes the scale and the running mean."""
        self.scale = self.add_weight(
            shape=(input_shape[-1],), initializer="ones", name="scale"
        )
        self.mean = self.add_weight(
            shape=(input_shape[-1],),
            initializer="zeros",
            trainable=False,
            name="mean",
        )

    def call(self, inputs):
        """Takes off a running mean that it has just moved."""
        self.mean.assign(0.9 * self.mean + 0.1 * tf.reduce_mean(inputs, axis=0))
        return (inputs - self.mean) * self.scale


def running_mean():
    """State that is written from activations, next to a live path."""
    return stack(layers.Dense(8, activation="relu"), Memory())


CASES = (
    frozen_layer,
    frozen_backbone,
    adapter_that_begins_at_zero,
    residual_with_zero_gamma,
    batch_normalisation,
    dropout,
    mixed_float16,
    loss_scale_that_settles,
    mixed_bfloat16,
    normalised_inputs,
    binned_inputs,
    augmented_images,
    mixture_of_experts,
    idle_expert,
    running_mean,
)
NO_SINGLE_LOSS = ()
