"""How large the event file becomes."""

import pathlib
import tempfile

import tensorflow as tf

from benchmarks import models
from benchmarks.figure import Figure
from keras_gradguard import GradHealthCallback

RECORDS = 200
LIMITS = {"variables": 80, "global": 12}


def bytes_a_value(scalars, records):
    """Returns the bytes on disk for each record of a variable.

    Args:
        scalars: As for `GradHealthCallback`.
        records: How many records are written.
    """
    model = models.transformer(width=8, vocabulary=50)
    x, y = models.batches(model, 4)
    data = tf.data.Dataset.from_tensor_slices((x, y)).repeat()
    with tempfile.TemporaryDirectory() as log_dir:
        guard = GradHealthCallback(log_dir, every=1, scalars=scalars)
        model.fit(
            data,
            steps_per_epoch=records,
            shuffle=False,
            verbose=0,
            callbacks=[guard],
        )
        files = pathlib.Path(log_dir).rglob("*tfevents*")
        total = sum(file.stat().st_size for file in files)
    return total / (records * len(model.trainable_variables))


def measure(options):
    """Measures the files of a small transformer with names as they come.

    Args:
        options: The `Options`.
    """
    records = RECORDS // 10 if options.quick else RECORDS
    return [
        Figure(
            "log-size",
            f'scalars="{scalars}"',
            bytes_a_value(scalars, records),
            "B",
            note=f"a variable and record; {records} records, all included",
        ).held_to(limit)
        for scalars, limit in LIMITS.items()
    ]
