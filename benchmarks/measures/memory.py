"""Whether memory grows over a long training, and how much one takes.

`python -m benchmarks.measures.memory bare|guarded STEPS` prints the growth,
`python -m benchmarks.measures.memory bare|guarded peak PARAMETERS` the peak in
MiB.
"""

import gc
import json
import pathlib
import resource
import sys
import tempfile

import keras
import numpy as np
import tensorflow as tf

from benchmarks.compared import models
from benchmarks.figure import Figure
from benchmarks.timing.process import ProcessFailed, answer_of
from keras_gradguard import GradHealthCallback

STEPS = 20_000
# What a first quarter of the training takes is needed, not lost.
LOOKS = 40
MOST_OBJECTS, MOST_KIB = 100, 1024
STATUS = pathlib.Path("/proc/self/statm")


class Memory(keras.callbacks.Callback):
    """Looks at the memory of the process now and then.

    Args:
        every: Steps from one look to the next.
    """

    def __init__(self, every):
        super().__init__()
        self.looks = []
        self._every = every

    def on_train_batch_end(self, batch, logs=None):
        """Counts objects and pages."""
        if (batch + 1) % self._every == 0:
            gc.collect()
            pages = int(STATUS.read_text().split()[1])
            kib = pages * resource.getpagesize() / 1024
            self.looks.append((len(gc.get_objects()), kib))


def growth(is_guarded, steps):
    """Returns by how many objects and KiB a training grows once it runs.

    Args:
        is_guarded: Whether with `GradHealthCallback`.
        steps: Its number of steps.
    """
    model = models.tiny()
    x, y = models.batches(model, 32)
    data = tf.data.Dataset.from_tensor_slices((x, y)).repeat()
    memory = Memory(steps // LOOKS)
    with tempfile.TemporaryDirectory() as log_dir:
        guard = [GradHealthCallback(log_dir)] if is_guarded else []
        model.fit(
            data,
            steps_per_epoch=steps,
            shuffle=False,
            verbose=0,
            callbacks=[*guard, memory],
        )
    looks = np.array(memory.looks[LOOKS // 4 - 1 :])
    half = len(looks) // 3
    before, after = looks[:half], looks[-half:]
    return (np.median(after, axis=0) - np.median(before, axis=0)).tolist()


def measure(options):
    """Measures bare and guarded in processes of their own.

    Args:
        options: The `Options`.
    """
    row = "memory"
    steps = STEPS // 20 if options.quick else STEPS
    whats = ("objects", MOST_OBJECTS), ("KiB", MOST_KIB)
    if not STATUS.exists():
        note = "no /proc on this system"
        return [
            Figure(row, f"growth, {w}", None, w, note=note) for w, _ in whats
        ]
    try:
        bare = answer_of(__name__, "bare", steps)
        guarded = answer_of(__name__, "guarded", steps)
    except ProcessFailed as failure:
        note = str(failure)
        return [
            Figure(row, f"growth, {w}", None, w, note=note) for w, _ in whats
        ]
    return [
        Figure(
            row,
            f"growth over {steps} steps",
            guarded[number] - bare[number],
            unit,
            note=f"guarded {guarded[number]:.0f}, bare {bare[number]:.0f}",
        ).held_to(limit)
        for number, (unit, limit) in enumerate(whats)
    ]


MOST_OF_BARE = 1.02
NUM_PARAMETERS = 100_000_000


def peak(is_guarded, num_parameters=NUM_PARAMETERS):
    """Returns the most memory that a training of a large model takes, MiB.

    Args:
        is_guarded: Whether with `GradHealthCallback`.
        num_parameters: Those of the model; Adam trains it.
    """
    model = models.square(num_parameters, optimizer="adam")
    x, y = models.batches(model, 8)
    x, y = np.concatenate(x), np.concatenate(y)
    with tempfile.TemporaryDirectory() as log_dir:
        guard = [GradHealthCallback(log_dir)] if is_guarded else []
        model.fit(x, y, batch_size=8, verbose=0, callbacks=guard)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_peak(options):
    """Measures bare and guarded in processes of their own.

    Args:
        options: The `Options`.
    """
    row, what = "memory", "peak, 100 M parameters and Adam"
    number = NUM_PARAMETERS // 1000 if options.quick else NUM_PARAMETERS
    try:
        bare, guarded = (
            answer_of(__name__, who, "peak", number)
            for who in ("bare", "guarded")
        )
    except ProcessFailed as failure:
        return [Figure(row, what, None, note=str(failure))]
    note = f"{guarded:.0f} MiB, bare {bare:.0f} MiB"
    return [Figure(row, what, guarded / bare, note=note).held_to(MOST_OF_BARE)]


if __name__ == "__main__":
    is_guarded = "guarded" == sys.argv[1]
    if sys.argv[2] == "peak":
        print(json.dumps(peak(is_guarded, int(sys.argv[3]))))
    else:
        print(json.dumps(growth(is_guarded, int(sys.argv[2]))))
