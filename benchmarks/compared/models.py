"""The models that are trained; each call makes a fresh one, same seed."""

import keras
import numpy as np

from benchmarks.compared.blocks import (
    Chain,
    Encoder,
    ManyWeights,
    OwnStep,
    Rounding,
)

NUM_BATCHES = 4


def tiny(**compiled):
    """About 1 ms a step: what Keras itself costs, and hardly more."""
    return _compiled(
        [
            keras.Input((16,)),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10),
        ],
        **compiled,
    )


def dense(**compiled):
    """About 10 ms a step, most of it spent on memory."""
    return _compiled(
        [
            keras.Input((256,)),
            keras.layers.Dense(512, activation="relu"),
            keras.layers.Dense(512, activation="relu"),
            keras.layers.Dense(10),
        ],
        **compiled,
    )


def transformer(width=128, num_layers=4, vocabulary=1000, **compiled):
    """An encoder of 100 ms a step and more."""
    return _compiled(
        [
            keras.Input((64,), dtype="int32"),
            keras.layers.Embedding(vocabulary, width),
            *(Encoder(width, num_heads=4) for _ in range(num_layers)),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(10),
        ],
        **compiled,
    )


def resnet50(**compiled):
    """ResNet-50 for images of 64x64."""
    keras.utils.set_random_seed(0)
    model = keras.applications.ResNet50(
        weights=None,
        input_shape=(64, 64, 3),
        classes=10,
        classifier_activation=None,
    )
    return compile_model(model, **compiled)


def embedding(**compiled):
    """100,000 rows, of which a batch reads a few."""
    return _compiled(
        [
            keras.Input((16,), dtype="int32"),
            keras.layers.Embedding(100_000, 32),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(10),
        ],
        **compiled,
    )


def weights(num_variables):
    """As little as possible around a number of variables."""
    small = ManyWeights(num_variables - 2)
    return _compiled(
        [keras.Input((16,)), small, keras.layers.Dense(10)], optimizer="sgd"
    )


def chain(num_operations):
    """Many operations in a row, cut in the middle."""
    half = num_operations // 2
    return _compiled(
        [
            keras.Input((16,)),
            keras.layers.Dense(16),
            Chain(half),
            Rounding(),
            Chain(half),
            keras.layers.Dense(10),
        ],
        optimizer="sgd",
    )


def cut_resnet50():
    """ResNet-50 whose front half gets no gradient."""

    def call(layer, *args, **kwargs):
        out = layer(*args, **kwargs)
        return Rounding()(out) if layer.name == "conv4_block1_out" else out

    return compile_model(
        keras.models.clone_model(resnet50(), call_function=call)
    )


def own_step():
    """Thirteen small layers and a `train_step` that writes all out."""
    keras.utils.set_random_seed(0)
    return compile_model(
        OwnStep(
            [
                keras.Input((16,)),
                *(keras.layers.Dense(16, activation="relu") for _ in range(12)),
                keras.layers.Dense(10),
            ]
        )
    )


def square(num_parameters, optimizer="sgd"):
    """One kernel of a number of parameters; most of a step moves memory."""
    side = round(num_parameters**0.5)
    return _compiled(
        [keras.Input((side,)), keras.layers.Dense(side, use_bias=False)],
        optimizer=optimizer,
    )


def _compiled(stack, **compiled):
    keras.utils.set_random_seed(0)
    return compile_model(keras.Sequential(stack), **compiled)


def compile_model(model, optimizer=None, **compiled):
    """Compiles a classifier on logits; without XLA unless asked for.

    Args:
        model: A Keras model.
        optimizer: An optimizer; by default an Adam that is slow enough not
            to learn four batches by heart within a benchmark.
        **compiled: More for `compile`.
    """
    compiled.setdefault("jit_compile", False)
    model.compile(
        optimizer or keras.optimizers.Adam(1e-5),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **compiled,
    )
    return model


def batches(model, batch_size):
    """Returns random batches for a model: `x` and `y`, a batch a row.

    Args:
        model: A built Keras model; where it takes integers they are ids.
        batch_size: Rows of a batch.
    """
    random = np.random.default_rng(0)
    shape = (NUM_BATCHES, batch_size, *model.input_shape[1:])
    if model.inputs[0].dtype == "int32":
        x = random.integers(0, model.layers[0].input_dim, shape, "int32")
    else:
        x = random.standard_normal(shape, "float32")
    num_classes = model.output_shape[-1]
    y = random.integers(0, min(num_classes, 10), (NUM_BATCHES, batch_size))
    return x, y.astype("int32")
