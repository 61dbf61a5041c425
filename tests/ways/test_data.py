"""Every kind of data that `fit` takes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback
from tests.fitting import MODES, NAMES, X, Y, marked
from tests.ways.alike import alike, same_norms, tape_norms

LABELS = np.argmax(Y, axis=1)
WEIGHTS = np.linspace(0.5, 2.0, 16).astype("float32")
CLASS_WEIGHT = {0: 1.0, 1: 3.0, 2: 0.5}


def dense(loss="mse", **arguments):
    """A small model."""
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, activation="tanh"),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile("adam", loss, **arguments)
    return model


def named(loss="mse", **arguments):
    """A model of two inputs and two outputs, by name."""
    inputs = {name: keras.Input((4,), name=name) for name in "ab"}
    both = keras.layers.Add()(list(inputs.values()))
    outputs = {n: keras.layers.Dense(3, name=n)(both) for n in ("p", "q")}
    model = keras.Model(inputs, outputs)
    model.compile("adam", {"p": loss, "q": "mae"}, **arguments)
    return model


def masked(loss="mse", **arguments):
    """A mask all the way to the loss."""
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(9, 4, mask_zero=True),
            keras.layers.LSTM(3, return_sequences=True),
        ]
    )
    model.compile("adam", loss, **arguments)
    return model


class Ragged(keras.Model):
    """The mean of rows of unlike lengths."""

    def __init__(self):
        super().__init__()
        self.table = keras.layers.Embedding(9, 4)
        self.head = keras.layers.Dense(3)

    def call(self, x):
        """Embeds the flat values; Keras layers take no ragged tensors."""
        rows = x.with_values(self.table(x.values))
        return self.head(tf.reduce_mean(rows, axis=1))


def ragged(loss="mse", **arguments):
    """A model of ragged rows."""
    model = Ragged()
    model.compile("adam", loss, **arguments)
    return model


class Pairs(keras.utils.PyDataset):
    """Three batches, the last one short."""

    def __len__(self):
        return 3

    def __getitem__(self, number):
        part = slice(6 * number, 6 * number + 6)
        return X[part], Y[part]


def generator():
    """The same batches, weighted, without an end."""
    while True:
        for start in (0, 6, 12):
            part = slice(start, start + 6)
            yield X[part], Y[part], WEIGHTS[part]


def unknown_sizes():
    """Batches whose size the graph does not know."""
    return tf.data.Dataset.from_generator(
        lambda: ((X[:n], Y[:n]) for n in (5, 3, 7)),
        output_signature=(
            tf.TensorSpec([None, 4], tf.float32),
            tf.TensorSpec([None, 3], tf.float32),
        ),
    )


TOKENS = np.random.default_rng(1).integers(0, 9, (16, 6)).astype("int32")
ROWS = tf.RaggedTensor.from_row_lengths(
    TOKENS.ravel()[:56], [1, 2, 3, 4, 5, 6] * 2 + [2, 3, 4, 5]
)
CASES = {
    "class weight": lambda: (
        lambda: dense("sparse_categorical_crossentropy"),
        {"x": X, "y": LABELS, "class_weight": CLASS_WEIGHT, "batch_size": 5},
    ),
    "sample weight": lambda: (
        lambda: dense(weighted_metrics=["mae"]),
        {"x": X, "y": Y, "sample_weight": WEIGHTS, "batch_size": 5},
    ),
    "dict": lambda: (
        named,
        {"x": {"a": X, "b": X}, "y": {"p": Y, "q": Y}, "batch_size": 5},
    ),
    "dict weights": lambda: (
        named,
        {
            "x": {"a": X, "b": X},
            "y": {"p": Y, "q": Y},
            "sample_weight": {"p": WEIGHTS, "q": WEIGHTS[::-1]},
        },
    ),
    "mask": lambda: (
        masked,
        {"x": TOKENS, "y": np.ones((16, 6, 3), "float32"), "batch_size": 5},
    ),
    "ragged": lambda: (
        ragged,
        {"x": tf.data.Dataset.from_tensor_slices((ROWS, Y)).batch(5)},
    ),
    "sparse": lambda: (dense, {"x": tf.sparse.from_dense(X), "y": Y}),
    "generator": lambda: (
        dense,
        {"x": generator(), "steps_per_epoch": 4},
    ),
    "dataset": lambda: (
        dense,
        {"x": tf.data.Dataset.from_tensor_slices((X, Y)).batch(5).repeat(2)},
    ),
    "unknown sizes": lambda: (dense, {"x": unknown_sizes()}),
    "PyDataset": lambda: (dense, {"x": Pairs(workers=1)}),
    "validation": lambda: (
        dense,
        {"x": X, "y": Y, "validation_split": 0.25, "batch_size": 5},
    ),
    "other dtypes": lambda: (
        dense,
        {"x": X.astype("float64"), "y": Y.astype("int64")},
    ),
}


def fitting(arguments):
    """Returns a `train` that makes its data anew in each run."""

    def train(model, callbacks):
        return model.fit(
            **arguments()[1], epochs=2, verbose=0, callbacks=callbacks
        )

    return train


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("case", CASES)
def test_same_bits(case, eager):
    """Weights and history agree; each variable has a healthy row."""
    make, _ = CASES[case]()

    def made():
        model = make()
        model.run_eagerly = eager
        return model

    _, callback = alike(made, fitting(CASES[case]))
    assert {"ok"} == {row.status for row in callback.report.variables}
    assert () == callback.report.diagnoses


def test_weighted_norms():
    """Weights of classes and of samples are in the norms."""

    def make():
        return dense("sparse_categorical_crossentropy")

    each = np.float32([CLASS_WEIGHT[label] for label in LABELS])
    for weights in ({"sample_weight": each}, {"class_weight": CLASS_WEIGHT}):
        callback = GradHealthCallback(every=1)
        keras.utils.set_random_seed(5)
        make().fit(
            X, LABELS, batch_size=16, verbose=0, callbacks=[callback], **weights
        )
        same_norms(callback, tape_norms(make, X, LABELS, each))


def rounded(y_true, y_pred):
    """Cuts."""
    return tf.reduce_mean(tf.abs(y_true - tf.round(y_pred)), axis=-1)  # cut


CUTS = ["class weight", "dict", "mask", "ragged", "sparse", "unknown sizes"]


@pytest.mark.parametrize("case", CUTS)
def test_cut(case):
    """The line is found whatever the data look like."""
    make, arguments = CASES[case]()
    if case == "class weight":
        arguments["y"] = Y[:, :1]
    maker = {"class weight": dense}.get(case, make)
    callback = GradHealthCallback(every=1, on_break="raise")
    with pytest.raises(ValueError):
        maker(rounded).fit(**arguments, verbose=0, callbacks=[callback])
    (found,) = callback.report.diagnoses
    assert ("GG105", *marked(rounded)) == (found.code, found.file, found.line)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_without_trainable_weights(eager):
    """A frozen model fits as it does bare; the report says that it is."""

    def make():
        model = dense(run_eagerly=eager)
        model.trainable = False
        model.compile("adam", "mse", run_eagerly=eager)
        return model

    def train(model, callbacks):
        return model.fit(X, Y, verbose=0, callbacks=callbacks)

    _, callback = alike(make, train)
    assert () == callback.report.variables
    assert ["GG316"] == [d.code for d in callback.report.diagnoses]
