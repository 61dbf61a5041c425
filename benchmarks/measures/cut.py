"""How long a cut takes to be named, from the gradients to the warning."""

import inspect
import json
import sys
import time
import warnings

import keras
import numpy as np
import tensorflow as tf

from benchmarks.compared import models
from benchmarks.compared.blocks import Rounding
from benchmarks.compared.models import batches
from benchmarks.figure import Figure, spread
from benchmarks.timing.process import ProcessFailed, answer_of
from keras_gradguard import GradHealthCallback, GradientBreakWarning

MODELS = {"resnet50": models.cut_resnet50}
MOST_SECONDS = 3.0


class ClockedSGD(keras.optimizers.SGD):
    """Notes when the tape is done and the gradients are there."""

    def apply_gradients(self, grads_and_vars):
        """Notes the time, then applies them as ever."""
        self.begin = time.perf_counter()
        return super().apply_gradients(grads_and_vars)


def seconds_to_name(model):
    """Trains a cut model for one step.

    Args:
        model: A compiled model with a `Rounding` in it.

    Returns:
        The seconds from the gradients to the warning that names the line
        of the cut; `None` if no warning names it.
    """
    clock = ClockedSGD()
    model.compile(clock, model.loss, jit_compile=False)
    x, y = batches(model, 8)
    named = []

    def see(message, category, filename, lineno, file=None, line=None):
        if issubclass(category, GradientBreakWarning):
            named.append((time.perf_counter(), filename, lineno))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", GradientBreakWarning)
        warnings.showwarning = see
        data = tf.data.Dataset.from_tensors((x[0], y[0]))
        model.fit(data, verbose=0, callbacks=[GradHealthCallback()])
    lines, first = inspect.getsourcelines(Rounding.call)
    there = range(first, first + len(lines))
    seconds = [
        when - clock.begin
        for when, file, line in named
        if file == inspect.getsourcefile(Rounding) and line in there
    ]
    return min(seconds, default=None)


def measure(options):
    """Measures a cut in the middle of ResNet-50, in fresh processes.

    Args:
        options: The `Options`.
    """
    row, what = "cut", "ResNet-50, gradients to named line"
    rounds = 1 if options.quick else options.rounds or 3
    try:
        seconds = [answer_of(__name__, "resnet50") for _ in range(rounds)]
    except ProcessFailed as failure:
        figure = Figure(row, what, None, "s", note=str(failure))
        return [figure.held_to(MOST_SECONDS)]
    if None in seconds:
        note = "the line was not named"
        return [Figure(row, what, None, "s", note=note).held_to(MOST_SECONDS)]
    figure = Figure(row, what, unit="s", **spread(np.array(seconds)))
    return [figure.held_to(MOST_SECONDS)]


if __name__ == "__main__":
    # Imports of the first time are part of it, as the process is fresh.
    print(json.dumps(seconds_to_name(MODELS[sys.argv[1]]())))
