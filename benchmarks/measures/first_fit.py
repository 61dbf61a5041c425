"""The first `fit` of a process: trace and first-batch check included.

`python -m benchmarks.measures.first_fit bare|guarded resnet50|own-step` prints
its seconds: of the clock for ResNet-50, of the processor for a small model with
a `train_step` of its own, which a busy machine hardly changes. The models of
`compared.kinds` take turns in this process, in seconds of the processor.
"""

import functools
import json
import sys
import tempfile
import time

import numpy as np
import tensorflow as tf

from benchmarks.compared import models
from benchmarks.compared.kinds import KINDS, trainable
from benchmarks.figure import Figure, spread
from benchmarks.timing.process import ProcessFailed, answer_of

LIMITS = {"resnet50": 1.10, "own-step": 1.15}
WHAT = {
    "resnet50": "ResNet-50, one step, fresh process",
    "own-step": "13 Dense layers, own train_step, CPU seconds",
}
CLOCKS = {"resnet50": time.perf_counter, "own-step": time.process_time}


def seconds(is_guarded, kind):
    """Returns the seconds of a `fit` of one step on a healthy model.

    Args:
        is_guarded: Whether with `GradHealthCallback`, whose import counts.
        kind: One of `WHAT`.
    """
    clock = CLOCKS[kind]
    model = models.own_step() if kind == "own-step" else models.resnet50()
    x, y = models.batches(model, 8)
    data = tf.data.Dataset.from_tensors((x[0], y[0]))
    callbacks = []
    with tempfile.TemporaryDirectory() as log_dir:
        begin = clock()
        if is_guarded:
            from keras_gradguard import GradHealthCallback

            callbacks.append(GradHealthCallback(log_dir))
        model.fit(data, verbose=0, callbacks=callbacks)
        return clock() - begin


def measure(options, kind="resnet50"):
    """Measures bare and guarded, turn by turn, in fresh processes.

    Args:
        options: The `Options`.
        kind: One of `WHAT`.
    """
    row, what = "first-fit", WHAT[kind]
    rounds = 1 if options.quick else options.rounds or 3
    try:
        pairs = [
            [answer_of(__name__, who, kind) for who in ("bare", "guarded")]
            for _ in range(rounds)
        ]
    except ProcessFailed as failure:
        figure = Figure(row, what, None, note=str(failure))
        return [figure.held_to(LIMITS[kind])]
    bare, guarded = np.array(pairs).T
    note = f"{np.median(guarded):.1f} s, bare {np.median(bare):.1f} s"
    figure = Figure(row, what, **spread(guarded / bare), note=note)
    return [figure.held_to(LIMITS[kind])]


measure_own_step = functools.partial(measure, kind="own-step")


def _kind_seconds(kind, callbacks):
    model, x, y = trainable(kind)
    begin = time.process_time()
    model.fit(x, y, batch_size=8, verbose=0, callbacks=callbacks)
    return time.process_time() - begin


def measure_kinds(options):
    """Measures models of many kinds, bare and guarded by turns.

    Args:
        options: The `Options`.
    """
    from keras_gradguard import GradHealthCallback

    rounds = 1 if options.quick else options.rounds or 3
    kinds = list(KINDS)[:2] if options.quick else list(KINDS)
    figures = []
    for kind in kinds:
        pairs = []
        # The first one loads what TensorFlow loads once.
        for _ in range(1 + rounds):
            bare = _kind_seconds(kind, [])
            pairs.append((bare, _kind_seconds(kind, [GradHealthCallback()])))
        bare, guarded = np.array(pairs[1:]).T
        note = f"{np.median(guarded):.1f} s, bare {np.median(bare):.1f} s"
        what = f"{kind}, CPU seconds"
        figure = Figure("first-fit", what, **spread(guarded / bare), note=note)
        figures.append(figure.held_to(LIMITS["own-step"]))
    return figures


if __name__ == "__main__":
    print(json.dumps(seconds("guarded" == sys.argv[1], sys.argv[2])))
