"""The first `fit` of a process: trace and first-batch check included.

`python -m benchmarks.measures.first_fit bare|guarded` prints its seconds.
"""

import json
import sys
import tempfile
import time

import numpy as np
import tensorflow as tf

from benchmarks.compared import models
from benchmarks.figure import Figure, spread
from benchmarks.timing.process import ProcessFailed, answer_of

LIMIT = 1.10


def seconds(is_guarded):
    """Returns the seconds of a `fit` of one step on a healthy ResNet-50.

    Args:
        is_guarded: Whether with `GradHealthCallback`, whose import counts.
    """
    model = models.resnet50()
    x, y = models.batches(model, 8)
    data = tf.data.Dataset.from_tensors((x[0], y[0]))
    callbacks = []
    with tempfile.TemporaryDirectory() as log_dir:
        begin = time.perf_counter()
        if is_guarded:
            from keras_gradguard import GradHealthCallback

            callbacks.append(GradHealthCallback(log_dir))
        model.fit(data, verbose=0, callbacks=callbacks)
        return time.perf_counter() - begin


def measure(options):
    """Measures bare and guarded, turn by turn, in fresh processes.

    Args:
        options: The `Options`.
    """
    row, what = "first-fit", "ResNet-50, one step, fresh process"
    rounds = 1 if options.quick else options.rounds or 3
    try:
        pairs = [
            [answer_of(__name__, kind) for kind in ("bare", "guarded")]
            for _ in range(rounds)
        ]
    except ProcessFailed as failure:
        figure = Figure(row, what, None, note=str(failure))
        return [figure.held_to(LIMIT)]
    bare, guarded = np.array(pairs).T
    note = f"{np.median(guarded):.1f} s, bare {np.median(bare):.1f} s"
    figure = Figure(row, what, **spread(guarded / bare), note=note)
    return [figure.held_to(LIMIT)]


if __name__ == "__main__":
    print(json.dumps(seconds("guarded" == sys.argv[1])))
