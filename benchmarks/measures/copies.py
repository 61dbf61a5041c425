"""How much of a step is copied out of TensorFlow."""

import contextlib
import functools

import keras
import numpy as np
import tensorflow as tf

from benchmarks.compared import models
from benchmarks.figure import Figure
from keras_gradguard import GradHealthCallback

STEPS = 50
MOST_BYTES = 100


@contextlib.contextmanager
def counted_reads():
    """Yields a list that gets the bytes of each tensor that is read.

    NumPy looks at a tensor through a buffer, of which Python sees nothing,
    so its own functions are watched as well.
    """
    reads = []

    def counted(read):
        @functools.wraps(read)
        def counting(first, *args, **kwargs):
            value = read(first, *args, **kwargs)
            if tf.is_tensor(first) or isinstance(first, keras.Variable):
                reads.append(getattr(value, "nbytes", 0))
            return value

        return counting

    tensor = type(tf.constant(0.0))
    places = [(tensor, "numpy"), (tensor, "__array__")]
    places += [(np, "array"), (np, "asarray")]
    own = {place: vars(place[0]).get(place[1]) for place in places}
    for owner, name in places:
        setattr(owner, name, counted(getattr(owner, name)))
    try:
        yield reads
    finally:
        for (owner, name), read in own.items():
            if read is None:
                delattr(owner, name)
            else:
                setattr(owner, name, read)


def measure(options):
    """Counts the bytes that a healthy training reads with each record.

    Args:
        options: The `Options`; nothing here depends on them.
    """
    model = models.dense()
    x, y = models.batches(model, 256)
    data = tf.data.Dataset.from_tensor_slices((x, y)).repeat()
    guard = GradHealthCallback(every=1)
    with counted_reads() as reads:
        model.fit(
            data,
            steps_per_epoch=STEPS,
            shuffle=False,
            verbose=0,
            callbacks=[guard],
        )
    number = len(model.trainable_variables)
    gradient = 4 * model.count_params() // number
    figure = Figure(
        "copies",
        "read by the host a record and variable",
        sum(reads) / (STEPS * number),
        "B",
        note=f"a gradient has {gradient} B on average; every=1, first batch "
        "included",
    )
    return [figure.held_to(MOST_BYTES)]
