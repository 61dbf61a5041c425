"""What importing the package costs, and TensorBoard's start with it.

`python -m benchmarks.measures.starts with|without LOG_DIR` starts a
TensorBoard with or without the plugin, and ends with its input.
"""

import importlib.metadata
import subprocess
import sys
import tempfile
import time
import urllib.request

import numpy as np

from benchmarks.figure import Figure, spread
from benchmarks.timing.process import ROOT

IMPORT_MS, TENSORBOARD_MS = 50, 100
GROUP, PLUGIN = "tensorboard_plugins", "keras_gradguard"


def measure_import(options):
    """Measures an import beside a Python that does nothing.

    Args:
        options: The `Options`.
    """
    rounds = 3 if options.quick else options.rounds or 20
    extra = []
    for _ in range(rounds):
        bare = _milliseconds("-c", "pass")
        extra.append(_milliseconds("-c", "import keras_gradguard") - bare)
    what = "beyond Python itself"
    figure = Figure("import", what, unit="ms", **spread(extra))
    return [figure.held_to(IMPORT_MS)]


def measure_tensorboard(options):
    """Measures TensorBoard's start up to its first answer.

    Args:
        options: The `Options`.
    """
    row, what = "tensorboard", "start, beyond one without the plugin"
    if not any(entry.name == PLUGIN for entry in _plugins()):
        note = "the plugin is not installed here"
        return [Figure(row, what, None, "ms", note=note)]
    rounds = 1 if options.quick else options.rounds or 10
    pairs = []
    with tempfile.TemporaryDirectory() as log_dir:
        _train(log_dir)
        for number in range(-1, rounds):
            pair = [
                _milliseconds("-m", __name__, kind, log_dir)
                for kind in ("without", "with")
            ]
            if number >= 0:  # The first one reads the disk.
                pairs.append(pair)
    without, with_plugin = np.array(pairs).T
    note = f"{np.median(without):.0f} ms without"
    extra = spread(with_plugin - without)
    figure = Figure(row, what, unit="ms", note=note, **extra)
    return [figure.held_to(TENSORBOARD_MS)]


def _train(log_dir):
    # The process that becomes a TensorBoard must not load TensorFlow.
    import tensorflow as tf

    from benchmarks.compared import models
    from keras_gradguard import GradHealthCallback

    model = models.tiny()
    x, y = models.batches(model, 32)
    guard = GradHealthCallback(log_dir, every=1)
    data = tf.data.Dataset.from_tensor_slices((x, y))
    model.fit(data, epochs=25, verbose=0, callbacks=[guard])


def _milliseconds(*arguments):
    """From the start of a Python to its first line, or else to its end."""
    begin = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    ) as process:
        process.stdout.readline()
        seconds = time.perf_counter() - begin
        process.stdin.close()
        if process.wait():
            raise RuntimeError(f"python {' '.join(arguments)} failed")
    return 1e3 * seconds


def _plugins():
    return importlib.metadata.entry_points(group=GROUP)


def serve(kind, log_dir):
    """Starts a TensorBoard, says so, and waits for the end of the input.

    Args:
        kind: `"with"` the plugin or `"without"`.
        log_dir: Its log folder.
    """
    from tensorboard import default, program

    plugins = default.get_static_plugins() + [
        entry.load()
        for entry in _plugins()
        if "with" == kind or entry.name != PLUGIN
    ]
    board = program.TensorBoard(plugins=plugins)
    board.configure(["tensorboard", "--logdir", log_dir, "--port", "0"])
    url = board.launch()
    listing = urllib.request.urlopen(f"{url}data/plugins_listing").read()
    assert ("with" == kind) == (PLUGIN.encode() in listing)
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve(*sys.argv[1:])
