"""Shows what Keras says of three broken losses, and what we say.

    python examples/02_three_pitfalls.py

Each loss runs compiled and with `run_eagerly=True`.
"""

import textwrap
import warnings

import keras
import numpy as np
import tensorflow as tf

from keras_gradguard import GradGuardLoss, GradHealthCallback

SILENCE = "(nothing: it trains)"


def numpy_mean(y_true, y_pred):
    """Pitfall 1: NumPy returns a plain number that no gradient can pass."""
    return np.mean((y_true - y_pred) ** 2)


def python_if(y_true, y_pred):
    """Pitfall 2: a Python `if` needs a value, a graph has none yet."""
    error = tf.reduce_mean(tf.square(y_true - y_pred))
    if error > 1.0:
        error = tf.sqrt(error)
    return error


@tf.function
def decide(scores):
    """Hides the threshold of pitfall 3 from the loss that calls it."""
    return tf.cast(scores > 0.5, tf.float32)


def hidden_threshold(y_true, y_pred):
    """Pitfall 3: true or false does not change by a little."""
    return tf.reduce_mean(tf.square(y_true - decide(y_pred)))


def fit(loss, eager, callbacks=()):
    """Trains a small model for one epoch."""
    keras.utils.set_random_seed(0)
    x = np.random.uniform(size=(64, 4)).astype("float32")
    y = (x.sum(axis=1, keepdims=True) > 2.0).astype("float32")
    model = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(8, activation="relu", name="hidden"),
            keras.layers.Dense(1, activation="sigmoid", name="score"),
        ]
    )
    model.compile("sgd", loss=loss, run_eagerly=eager)
    model.fit(x, y, verbose=0, callbacks=list(callbacks))


def keras_says(loss, eager):
    """Returns the message that a user of plain Keras meets."""
    try:
        fit(loss, eager)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return SILENCE


def we_say(loss, eager):
    """Returns the message under both guards.

    Where the loss itself fails, the exception keeps its type and our message
    is one of its notes; where no gradient comes back, we raise.
    """
    health = GradHealthCallback()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit(GradGuardLoss(loss), eager, [health])
    except Exception as error:
        return "\n".join(getattr(error, "__notes__", ())) or str(error)
    return "\n".join(map(str, health.report.diagnoses)) or SILENCE


def show(title, text):
    """Prints a message, indented, under its title."""
    print(f"\n{title}:")
    print(textwrap.indent(text, "  "))


def fold(text):
    """Returns `text` in lines that fit a terminal."""
    return textwrap.fill(
        text, 78, break_long_words=False, break_on_hyphens=False
    )


def main():
    """Runs the three losses, compiled and eager, without and with guard."""
    for loss in (numpy_mean, python_if, hidden_threshold):
        for eager in (False, True):
            mode = "run_eagerly=True" if eager else "compiled"
            print(f"\n{f' {loss.__name__}, {mode} ':=^80}")
            show("Keras says", fold(keras_says(loss, eager)))
            show("keras_gradguard says", we_say(loss, eager))


if __name__ == "__main__":
    main()
