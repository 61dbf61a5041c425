"""Integer inputs, masks, recurrence and attention."""

import keras
import numpy as np
import tensorflow as tf

from .build import compile_with, integers, normal

layers = keras.layers

NEXT_WORD = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def embedding():
    """Integer inputs, and sparse gradients of few rows."""
    model = keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            layers.Embedding(50, 8),
            layers.GlobalAveragePooling1D(),
            layers.Dense(1),
        ]
    )
    return compile_with(model, "mse"), integers(50, 16, 6), normal(16, 1)


def padded_words():
    """More padding than words before them: most rows get zeros."""
    model = keras.Sequential(
        [
            keras.Input((100,), dtype="int32"),
            layers.Embedding(50, 8, mask_zero=True),
            layers.GlobalAveragePooling1D(),
            layers.Dense(1),
        ]
    )
    words = np.pad(1 + integers(49, 16, 6), [(0, 0), (94, 0)])
    return compile_with(model, "mse", optimizer="sgd"), words, normal(16, 1)


def masked_lstm():
    """Rows of zeros are skipped."""
    model = keras.Sequential(
        [
            keras.Input((6, 3)),
            layers.Masking(),
            layers.LSTM(8),
            layers.Dense(1),
        ]
    )
    x = normal(16, 6, 3)
    x[:, 4:] = 0.0
    return compile_with(model, "mse"), x, normal(16, 1)


def gathered_rows():
    """An integer input chooses which of the model's rows counts."""
    rows = keras.Input((6, 3))
    index = keras.Input((), dtype="int32")
    x = layers.Dense(8, activation="relu")(rows)
    gather = layers.Lambda(
        lambda a: tf.gather(a[0], a[1], batch_dims=1), output_shape=(8,)
    )
    x = gather([x, index])
    model = compile_with(keras.Model([rows, index], layers.Dense(1)(x)), "mse")
    return model, [normal(16, 6, 3), integers(6, 16)], normal(16, 1)


def self_attention():
    """The key bias has a gradient that is zero but for rounding."""
    inputs = keras.Input((6, 8))
    x = layers.MultiHeadAttention(2, 4)(inputs, inputs)
    x = layers.LayerNormalization()(layers.Add()([inputs, x]))
    x = layers.Dense(1)(layers.GlobalAveragePooling1D()(x))
    model = compile_with(keras.Model(inputs, x), "mse")
    return model, normal(16, 6, 8), normal(16, 1)


def causal_transformer():
    """A small language model: tied words, causal mask, padding mask."""
    words = keras.Input((6,), dtype="int32")
    table = layers.ReversibleEmbedding(12, 8, mask_zero=True)
    x = table(words)
    attended = layers.MultiHeadAttention(2, 4, dropout=0.1)(
        x, x, use_causal_mask=True
    )
    x = layers.LayerNormalization()(layers.Add()([x, attended]))
    model = keras.Model(words, table(x, reverse=True))
    compile_with(model, NEXT_WORD)
    return model, integers(12, 16, 6), integers(12, 16, 6)


def attention_with_mask():
    """A boolean input says where to look; the score's bias has no say."""
    inputs = keras.Input((6, 8))
    mask = keras.Input((6,), dtype="bool")
    scores = layers.Dense(1)(inputs)

    def pool(arguments):
        """Softmax over the places that are left."""
        numbers, score, visible = arguments
        score = tf.where(visible[..., None], score, -1e9)
        return tf.reduce_sum(numbers * tf.nn.softmax(score, axis=1), axis=1)

    x = layers.Lambda(pool, output_shape=(8,))([inputs, scores, mask])
    model = compile_with(keras.Model([inputs, mask], layers.Dense(1)(x)), "mse")
    visible = integers(2, 16, 6).astype(bool)
    visible[:, :2] = True
    return model, [normal(16, 6, 8), visible], normal(16, 1)


def temporal_classification():
    """CTC: integer labels, padded with zeros, and a search inside."""
    model = keras.Sequential(
        [
            keras.Input((10, 3)),
            layers.Conv1D(8, 3, padding="same", activation="relu"),
            layers.Dense(5),
        ]
    )
    labels = np.pad(1 + integers(4, 16, 3), [(0, 0), (0, 1)])
    return compile_with(model, keras.losses.CTC()), normal(16, 10, 3), labels


CASES = (
    embedding,
    padded_words,
    masked_lstm,
    gathered_rows,
    self_attention,
    causal_transformer,
    attention_with_mask,
    temporal_classification,
)
NO_SINGLE_LOSS = ()
