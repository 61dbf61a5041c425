"""How large the event file becomes."""

import pathlib
import tempfile

import keras
import tensorflow as tf

from benchmarks.compared import models
from benchmarks.figure import Figure
from keras_gradguard import GradHealthCallback

RECORDS = 200
LIMITS = {"variables": 80, "global": 12}


def num_bytes(scalars, records):
    """Returns the bytes on disk for each variable, over all records.

    Args:
        scalars: As for `GradHealthCallback`.
        records: How many records are written.
    """
    # The numbers in the names of layers begin anew.
    keras.backend.clear_session()
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
    return total / len(model.trainable_variables)


def measure(options):
    """Measures the files of a small transformer with names as they come.

    What is written once is among it; the note tells of a record more.

    Args:
        options: The `Options`.
    """
    records = RECORDS // 10 if options.quick else RECORDS
    figures = []
    for scalars, limit in LIMITS.items():
        half, whole = (num_bytes(scalars, n) for n in (records // 2, records))
        further = (whole - half) / (records - records // 2)
        figure = Figure(
            "log-size",
            f'a variable and record, scalars="{scalars}"',
            whole / records,
            "B",
            note=f"in {records} records; {further:.1f} B in each further one",
        )
        figures.append(figure.held_to(limit))
    return figures
