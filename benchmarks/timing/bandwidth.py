"""The physical limit: how fast this machine reads its memory."""

import time

import numpy as np
import tensorflow as tf

NUM_BYTES = 4 * 10**8
REPEATS = 7


def bytes_a_second():
    """Returns the fastest of some readings of a tensor of 400 MB."""
    tensor = tf.random.uniform([NUM_BYTES // 4])
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        np.asarray(tf.reduce_max(tensor))
        seconds.append(time.perf_counter() - begin)
    return NUM_BYTES / min(seconds)
