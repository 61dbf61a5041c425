"""Many trainings, many findings, long names: nothing piles up."""

import gc
import os
import pathlib
import subprocess
import sys
import threading
import warnings

import keras
import numpy as np
import pytest

from keras_gradguard import GradHealthCallback
from keras_gradguard.report.cards import logged_cards
from tests.fitting import X, Y, classifier


def held():
    """How many files and threads this process has."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")), threading.active_count()


def one_fit(model, folder):
    """Trains one step with the guard."""
    callback = GradHealthCallback(log_dir=folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, Y, batch_size=16, verbose=0, callbacks=[callback])
    return callback


MANY_FITS = """\
import gc
import pathlib
import sys
import tracemalloc

from tests.fitting import classifier
from tests.ways.test_load import held, one_fit

folder, model = pathlib.Path(sys.argv[1]), classifier("mse")
for number in range(10):
    one_fit(model, folder / str(number))
before, sizes = held(), []
tracemalloc.start()
for number in range(100):
    one_fit(model, folder / str(number % 20))
    if number in (49, 99):
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])
tracemalloc.stop()
assert held() <= before, (held(), before)
assert sizes[1] - sizes[0] < 50_000, sizes
"""


def running(program, folder):
    """Starts a program with the checkout on its path."""
    root = pathlib.Path(__file__).parents[2]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_many_fits_of_one_model(tmp_path):
    """Files and threads stay as many; 50 fits keep less than 50 kB."""
    process = running(MANY_FITS, tmp_path)
    _, said = process.communicate()
    assert process.returncode == 0, said.decode()[-2000:]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_many_models(tmp_path):
    """A model and all that was made for it are let go of."""
    for number in range(3):
        one_fit(classifier("mse"), tmp_path / str(number))
    before = held()
    for number in range(20):
        one_fit(classifier("mse"), tmp_path / str(number))
    assert held() <= before


class Heads(keras.Model):
    """A model with layers that no loss reaches."""

    def __init__(self, names):
        super().__init__()
        self.head = keras.layers.Dense(3)
        self.others = [keras.layers.Dense(1, name=name) for name in names]

    def build(self, shape):
        for layer in (self.head, *self.others):
            layer.build(shape)

    def call(self, x):
        return self.head(x)


def cut_model(names):
    """A model of which some layers get no gradient."""
    model = Heads(names)
    model.build((None, 4))
    model.compile("sgd", "mse")
    return model


def test_long_names(tmp_path):
    """A name of 10,000 letters is in the log, and a report stays readable."""
    callback = one_fit(cut_model(["long" * 2_500]), tmp_path)
    assert callback.report.diagnoses
    assert logged_cards(tmp_path)
    assert len(str(callback.report)) < 200_000


@pytest.mark.slow
def test_a_thousand_layers_without_a_gradient(tmp_path):
    """Each is in the report; the log is as readable as for one."""
    names = [f"other_{number}" for number in range(1000)]
    callback = one_fit(cut_model(names), tmp_path)
    told = {p for d in callback.report.diagnoses for p in d.variables}
    assert len(told) == 2000
    assert logged_cards(tmp_path)


@pytest.mark.slow
def test_a_thousand_outputs(tmp_path):
    """A loss for each of them."""
    inputs = keras.Input((4,))
    outputs = [keras.layers.Dense(1)(inputs) for _ in range(1000)]
    model = keras.Model(inputs, outputs)
    model.compile("sgd", ["mse"] * 1000)
    callback = GradHealthCallback(log_dir=tmp_path)
    targets = [np.ones((16, 1), "float32")] * 1000
    model.fit(X, targets, batch_size=16, verbose=0, callbacks=[callback])
    assert callback.report.ok
    assert len(callback.report.losses) == 1000


PROGRAM = """\
import sys

from keras_gradguard import GradHealthCallback
from tests.fitting import X, Y, classifier

model = classifier("mse")
callback = GradHealthCallback(log_dir=sys.argv[1], every=1)
model.fit(X, Y, batch_size=4, epochs=5, verbose=0, callbacks=[callback])
assert callback.report.ok, callback.report
"""


def test_two_processes_and_two_threads_on_one_folder(tmp_path):
    """Each training has an event file of its own, all of them whole."""
    processes = [running(PROGRAM, tmp_path) for _ in range(2)]
    models = [classifier("mse"), classifier("mse")]
    threads = [
        threading.Thread(target=one_fit, args=(model, tmp_path))
        for model in models
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for process in processes:
        _, said = process.communicate()
        assert process.returncode == 0, said.decode()[-2000:]
    files = list((tmp_path / "gradients").iterdir())
    assert len(files) == 4
    assert logged_cards(tmp_path).count("Verdict") == 4
