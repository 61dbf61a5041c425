"""Trains a few models, and takes pictures of their Gradients tab.

`python -m docs.screenshots`, from the root of the repository: the PNGs go to
`docs/images`. Needs TensorFlow, selenium, pillow, and Chromium
with its chromedriver.
"""

import contextlib
import io
import pathlib
import tempfile
import warnings

import keras
import numpy as np
import PIL.Image
import tensorflow as tf

from keras_gradguard import GradHealthCallback
from tests.view.board import Board
from tests.view.tab import Tab, browser

IMAGES = pathlib.Path(__file__).parent / "images"
LENGTH, WIDTH, WORDS, CLASSES = 6, 16, 20, 3


def right_price(y_true, y_pred):
    """Reaches the weights."""
    return tf.reduce_mean(tf.abs(y_true - tf.sigmoid(y_pred)), axis=-1)


def wrong_price(y_true, y_pred):
    """Counts the errors, and reaches nothing."""
    is_dear = tf.cast(y_pred > 0.5, tf.float32)
    return tf.reduce_mean(tf.abs(y_true - is_dear), axis=-1)


def transformer(price):
    """A small transformer with a head for the topic and one for the price."""
    layers = keras.layers
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(WORDS, WIDTH, name="embedding")(inputs)
    for number in range(4):
        block = f"block{number}"
        attention = layers.MultiHeadAttention(2, 8, name=f"{block}_attention")
        x = layers.LayerNormalization(name=f"{block}_norm")(x + attention(x, x))
        hidden = layers.Dense(2 * WIDTH, "gelu", name=f"{block}_up")(x)
        x = x + layers.Dense(WIDTH, name=f"{block}_down")(hidden)
    pooled = layers.GlobalAveragePooling1D()(x)
    topic = layers.Dense(CLASSES, "softmax", name="topic_head")(pooled)
    dear = layers.Dense(1, name="price_head")(pooled)
    model = keras.Model(inputs, {"topic": topic, "price": dear})
    losses = {"topic": "sparse_categorical_crossentropy", "price": price}
    model.compile("adam", loss=losses)
    return model


def deep_sigmoid():
    """Many layers that are flat at both ends."""
    layers = [
        keras.layers.Dense(16, "sigmoid", name=f"dense_{number:02}")
        for number in range(14)
    ]
    layers = [keras.Input((LENGTH,)), *layers, keras.layers.Dense(1)]
    model = keras.Sequential(layers, name="deep")
    model.compile("sgd", loss="mse")
    return model


def train(folder):
    """Fits all runs into a folder; returns their names."""
    keras.utils.set_random_seed(7)
    generator = np.random.default_rng(7)
    words = generator.integers(0, WORDS, (512, LENGTH))
    topic = words[:, 0] % CLASSES
    price = (words[:, 1:2] > WORDS / 2).astype("float32")
    targets = {"topic": topic, "price": price}
    trainings = {
        "healthy": (transformer(right_price), words, targets),
        "broken": (transformer(wrong_price), words, targets),
        "vanishing": (deep_sigmoid(), words / WORDS, price),
    }
    for name, (model, x, y) in trainings.items():
        callback = GradHealthCallback(folder / name, every=2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            model.fit(
                x, y, batch_size=8, epochs=6, verbose=0, callbacks=[callback]
            )
    return list(trainings)


def pictures(tab, names):
    """Saves each run in light and dark, and all of them side by side."""
    IMAGES.mkdir(exist_ok=True)
    pins = {
        "healthy": ["topic_head/kernel"],
        "broken": ["price_head/kernel"],
        "vanishing": ["deep/dense_00/kernel", "deep/dense_13/kernel"],
    }
    views = {
        name: {
            "runs": [f"{name}/gradients"],
            "rows": "layers",
            "pins": pins[name],
        }
        for name in names
    }
    runs = [f"{name}/gradients" for name in names]
    views["compared"] = {"runs": runs, "rows": "layers", "height": "all"}
    for name, state in views.items():
        for theme in ("light", "dark"):
            query = "?darkMode=true" if theme == "dark" else ""
            tab.open(query, **state)
            number = len(state["runs"])
            tab.until(
                "return document.querySelectorAll('canvas.map[data-columns]')"
                f".length === {number}"
            )
            tab.driver.switch_to.default_content()
            file = IMAGES / f"{name}_{theme}.png"
            shot = io.BytesIO(tab.driver.get_screenshot_as_png())
            picture = PIL.Image.open(shot).convert("RGB")
            # A third of the size; this method keeps the legend's colours.
            method = PIL.Image.Quantize.MAXCOVERAGE
            picture.quantize(256, method).save(file, optimize=True)
            print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB")


def main():
    """Trains, serves, takes the pictures."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        names = train(pathlib.Path(folder))
        board = Board(folder, is_fast=True)
        stack.callback(board.close)
        driver = browser()
        stack.callback(driver.quit)
        board.until(lambda runs: len(runs) == len(names))
        pictures(Tab(driver, board), names)


if __name__ == "__main__":
    main()
