"""Prints as Keras does, to the console or to the log of absl."""

from keras.src.utils import io_utils


def print_line(text):
    """Prints one line where Keras prints its own.

    Args:
        text: The line.
    """
    io_utils.print_msg(text)
