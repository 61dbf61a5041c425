"""Finds the line that cuts a gradient, then trains with a corrected loss.

    python examples/01_find_the_cut.py [LOG_DIR]

Handwritten digits, 1,797 of them, come with scikit-learn.
"""

import argparse
import os
import sys

import keras
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from keras_gradguard import (
    GradGuardLoss,
    GradHealthCallback,
    GradientBreakError,
)

WANTED_ACCURACY = 0.90


@tf.function
def decide(scores):
    """Returns 1 for every digit with a score above 0.5, else 0."""
    return tf.cast(scores > 0.5, tf.float32)


def wrong_decisions(y_true, y_pred):
    """The error rate: what we want to be small, but without a gradient."""
    return tf.reduce_mean(tf.square(y_true - decide(y_pred)), axis=-1)


def distance(y_true, y_pred):
    """The same loss on the scores, without the threshold."""
    return tf.reduce_mean(tf.square(y_true - y_pred), axis=-1)


def load_data():
    """Returns images, labels, validation images and validation labels."""
    digits = load_digits()
    images = digits.images[..., None].astype("float32") / 16.0
    labels = keras.utils.to_categorical(digits.target, 10)
    split = train_test_split(images, labels, test_size=0.25, random_state=0)
    x, x_validation, y, y_validation = split
    return x, y, x_validation, y_validation


def build_model():
    """Returns a small convolutional network."""
    return keras.Sequential(
        [
            keras.layers.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, activation="relu", name="edges"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu", name="hidden"),
            keras.layers.Dense(10, activation="softmax", name="digit"),
        ]
    )


def train(loss, data, log_dir, epochs):
    """Trains a new model; returns its validation accuracy."""
    x, y, x_validation, y_validation = data
    model = build_model()
    model.compile("adam", loss=GradGuardLoss(loss), metrics=["accuracy"])
    health = GradHealthCallback(log_dir=log_dir)
    model.fit(x, y, epochs=epochs, verbose=0, callbacks=[health])
    return model.evaluate(x_validation, y_validation, verbose=0)[1]


def main():
    """Trains with the broken loss, then with the corrected one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log_dir", nargs="?", default="logs/find_the_cut")
    log_dir = parser.parse_args().log_dir

    keras.utils.set_random_seed(0)
    data = load_data()

    print("First try: the loss counts wrong decisions.\n")
    try:
        train(wrong_decisions, data, os.path.join(log_dir, "broken"), epochs=1)
    except GradientBreakError as error:
        print(error)

    print("\nSecond try: the loss keeps the scores soft.\n")
    accuracy = train(
        distance, data, os.path.join(log_dir, "corrected"), epochs=20
    )
    print(f"validation accuracy: {accuracy:.3f}")
    print(f"tensorboard --logdir {log_dir}")
    if accuracy < WANTED_ACCURACY:
        sys.exit(f"the accuracy should be at least {WANTED_ACCURACY}")


if __name__ == "__main__":
    main()
