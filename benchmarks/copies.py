"""How much of a step is copied out of TensorFlow."""

import contextlib

import tensorflow as tf

from benchmarks import models
from benchmarks.figure import Figure
from keras_gradguard import GradHealthCallback

STEPS = 50
MOST_BYTES = 100


@contextlib.contextmanager
def counted_reads():
    """Yields a list that gets the bytes of each tensor that is read."""
    tensor = type(tf.constant(0.0))
    reads = []

    def counted(read):
        def counting(self, *args, **kwargs):
            value = read(self, *args, **kwargs)
            reads.append(getattr(value, "nbytes", 0))
            return value

        return counting

    names = ("numpy", "__array__")
    own = {name: vars(tensor)[name] for name in names if name in vars(tensor)}
    for name in names:
        setattr(tensor, name, counted(getattr(tensor, name)))
    try:
        yield reads
    finally:
        for name in names:
            delattr(tensor, name)
        for name, read in own.items():
            setattr(tensor, name, read)


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
