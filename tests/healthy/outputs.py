"""Several outputs, several terms, weights, and metrics that count."""

import keras
import numpy as np
import tensorflow as tf

from .build import binary, compile_with, dense, integers, normal

layers = keras.layers


def two_heads():
    """Returns inputs and two heads on one body."""
    inputs = keras.Input((4,))
    x = layers.Dense(8, activation="relu")(inputs)
    return (
        inputs,
        layers.Dense(1, name="age")(x),
        layers.Dense(3, activation="softmax", name="kind")(x),
    )


def losses_by_name():
    """A dictionary of losses and of weights."""
    inputs, age, kind = two_heads()
    model = compile_with(
        keras.Model(inputs, {"age": age, "kind": kind}),
        {"age": "mae", "kind": "sparse_categorical_crossentropy"},
        loss_weights={"age": 0.1, "kind": 1.0},
    )
    targets = {"age": normal(16, 1), "kind": integers(3, 16)}
    return model, normal(16, 4), targets


def losses_in_order():
    """A list of losses and of weights."""
    inputs, age, kind = two_heads()
    model = compile_with(
        keras.Model(inputs, [age, kind]),
        ["mae", keras.losses.SparseCategoricalCrossentropy()],
        loss_weights=[0.1, 1.0],
    )
    return model, normal(16, 4), [normal(16, 1), integers(3, 16)]


def label_as_second_output():
    """An integer output for the user, which no loss looks at."""
    inputs, _, kind = two_heads()
    label = layers.Lambda(lambda p: tf.argmax(p, axis=-1), name="label")(kind)
    model = compile_with(
        keras.Model(inputs, {"kind": kind, "label": label}),
        {"kind": "sparse_categorical_crossentropy", "label": None},
    )
    targets = {"kind": integers(3, 16), "label": integers(3, 16)}
    return model, normal(16, 4), targets


def argmax_in_metrics():
    """Argmax and comparisons, where they belong."""

    def share_of_first(y_true, y_pred):
        """Returns how often class 0 is the answer."""
        return tf.cast(tf.argmax(y_pred, axis=-1) == 0, tf.float32)

    model = compile_with(
        dense(3, "softmax"),
        "sparse_categorical_crossentropy",
        metrics=["accuracy", share_of_first],
    )
    return model, normal(16, 4), integers(3, 16)


def sample_weights():
    """Weights of rows, some of them zero."""
    model, x, y = binary("binary_crossentropy", weighted_metrics=["accuracy"])
    weights = integers(2, 16).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(8)
    return model, data, None


def batch_without_weight():
    """The first batch counts nothing, so each gradient is zero once."""
    model, x, y = binary("binary_crossentropy")
    weights = np.repeat([0.0, 1.0], 8)
    data = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(8)
    return model, data, None


def class_weights():
    """Weights of classes."""
    weights = {0: 0.2, 1: 3.0}
    return binary("binary_crossentropy", fit={"class_weight": weights})


def decay_everywhere():
    """Every weight has a regulariser next to the loss."""
    decay = {
        "kernel_regularizer": keras.regularizers.L2(0.01),
        "bias_regularizer": keras.regularizers.L2(0.01),
    }
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, activation="relu", **decay),
            layers.Dense(1, activity_regularizer="l1", **decay),
        ]
    )
    return compile_with(model, "mse"), normal(16, 4), normal(16, 1)


class Reconstruction(layers.Layer):
    """Adds the loss itself and hands its input on."""

    def call(self, inputs):
        """Compares the answer with the question."""
        question, answer = inputs
        self.add_loss(tf.reduce_mean(tf.square(question - answer)))
        return answer


def added_loss_only():
    """No compile loss at all: an autoencoder with add_loss."""
    inputs = keras.Input((4,))
    x = layers.Dense(2, activation="tanh")(inputs)
    x = Reconstruction()([inputs, layers.Dense(4)(x)])
    return compile_with(keras.Model(inputs, x)), normal(16, 4), None


def siamese():
    """Two inputs through the same weights, and a contrastive loss."""

    def contrastive(y_true, distance):
        """Pulls pairs together, pushes others apart up to a margin."""
        apart = tf.maximum(1.0 - distance, 0.0)
        return y_true * distance**2 + (1.0 - y_true) * apart**2

    left, right = keras.Input((4,)), keras.Input((4,))
    body = keras.Sequential([dense(8), layers.UnitNormalization()])
    distance = layers.Lambda(
        lambda a: tf.norm(a[0] - a[1] + 1e-6, axis=1, keepdims=True)
    )([body(left), body(right)])
    model = compile_with(keras.Model([left, right], distance), contrastive)
    labels = integers(2, 16, 1).astype("float32")
    return model, [normal(16, 4), normal(16, 4)[::-1]], labels


def hardest_triplets():
    """Argmax and argmin choose the triplet, gather takes the distance."""

    def triplet(y_true, y_pred):
        """Batch-hard triplet loss."""
        labels = tf.reshape(y_true, [-1])
        same = labels[:, None] == labels[None, :]
        difference = y_pred[:, None] - y_pred[None, :]
        distance = tf.reduce_sum(tf.square(difference), axis=-1)
        far = tf.argmax(tf.where(same, distance, -1.0), axis=1)
        near = tf.argmin(tf.where(same, 1e9, distance), axis=1)
        positive = tf.gather(distance, far, batch_dims=1)
        negative = tf.gather(distance, near, batch_dims=1)
        return tf.reduce_mean(tf.maximum(positive - negative + 0.5, 0.0))

    body = keras.Sequential([dense(8), layers.UnitNormalization()])
    model = compile_with(body, triplet)
    return model, normal(16, 4), integers(2, 16)


CASES = (
    losses_by_name,
    losses_in_order,
    label_as_second_output,
    argmax_in_metrics,
    sample_weights,
    batch_without_weight,
    class_weights,
    decay_everywhere,
    added_loss_only,
    siamese,
    hardest_triplets,
)
NO_SINGLE_LOSS = (
    losses_by_name,
    losses_in_order,
    label_as_second_output,
    added_loss_only,
)
