"""What a look does once, and what it does only where it may find something."""

import ast
import collections
import sysconfig

import keras
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback
from keras_gradguard.advice import patches
from keras_gradguard.backend.tensorflow.internals.eager import every_op_seen
from keras_gradguard.backend.tensorflow.tracing import loss_run, recorder
from keras_gradguard.backend.tensorflow.tracing.loss_run import LossRun
from keras_gradguard.source import reachable, syntax
from keras_gradguard.source.frames import (
    _folder_of,
    installed_package,
    is_users,
)
from tests.fitting import MODES, NAMES, X, Y, fit


class Block(keras.layers.Layer):
    """A layer with a weight of its own."""

    def build(self, shape):
        """Makes it."""
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")

    def call(self, x):
        """Uses it."""
        return x * self.scale


class Parts(keras.layers.Layer):
    """Holds many layers, and calls the first one alone."""

    def __init__(self, number=12):
        super().__init__()
        self.parts = [Block(name=f"part_{n}") for n in range(number)]

    def build(self, shape):
        """Makes the weights of all."""
        for part in self.parts:
            part.build(shape)

    def call(self, x):
        """Calls the first one."""
        return self.parts[0](x)


@pytest.fixture
def counts(monkeypatch):
    """Counts the calls of what takes long."""
    counted = collections.Counter()

    def count(owner, name):
        original = getattr(owner, name)

        def call(*arguments, **named):
            counted[name] += 1
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, call)

    is_users.cache_clear()
    _folder_of.cache_clear()
    count(sysconfig, "get_path")
    count(reachable, "_loaded_files")
    count(reachable, "ReachableCode")
    count(ast, "parse")
    return counted


def test_many_layers_that_nobody_calls(counts):
    """The user's files are looked for, read and followed once for them all."""
    found = {}
    # The first of these loads what all need.
    for number in (2, 3, 12):
        # It holds a few files, those of whatever ran before this test.
        syntax._parsed.cache_clear()
        counts.clear()
        layers = [keras.Input((4,)), Parts(number), keras.layers.Dense(3)]
        model = keras.Sequential(layers)
        model.compile("sgd", "mse")
        callback, _ = fit(model)
        paths = {p for d in callback.report.diagnoses for p in d.variables}
        assert number - 1 == len(paths)
        found[number] = dict(counts)
    assert 1 == found[3]["_loaded_files"] == found[12]["_loaded_files"]
    assert 1 == found[3]["ReachableCode"] == found[12]["ReachableCode"]
    assert found[12].get("parse", 0) <= found[3].get("parse", 0)
    # Once in this process, for the folders of packages and of Python.
    assert found[2]["get_path"] <= 3
    assert "get_path" not in found[3]
    assert "get_path" not in found[12]


def test_folders_of_packages_are_asked_for_once(counts):
    """However many files there are."""
    file = keras.__file__
    folder = sysconfig.get_path("purelib")
    counts.clear()
    _folder_of.cache_clear()
    for number in range(50):
        assert "keras" == installed_package(file)
        name = f"{folder}/single_{number}.py"
        assert f"single_{number}" == installed_package(name)
        assert installed_package(f"/elsewhere/{number}.py") is None
    assert counts["get_path"] <= 2


class Choosing(keras.layers.Layer):
    """Asks a condition, as an eager step may: a Python one."""

    def __init__(self, is_python):
        super().__init__()
        self.is_python = is_python

    def call(self, x):
        """Chooses between two slopes."""
        if not self.is_python:
            return tf.where(x > 0.0, x, 2.0 * x)
        if keras.ops.sum(x) > 0.0:
            return x
        return 2.0 * x


class Chain(keras.Model):
    """A model that is built by its first call, not by symbols.

    Args:
        chain: Its layers.
    """

    def __init__(self, chain):
        super().__init__()
        self.chain = chain

    def call(self, x):
        """Calls each."""
        for layer in self.chain:
            x = layer(x)
        return x


class OwnStep(Chain):
    """A step of the user's own, with a loss of Keras'."""

    def train_step(self, data):
        """Trains."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = keras.losses.MeanSquaredError()(y, self(x, training=True))
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


def jumping(y_true, y_pred):
    """Jumps at a distance of 1."""
    far = tf.abs(y_true - y_pred)
    return tf.reduce_mean(tf.where(far > 1.0, far + 2.0, far), axis=-1)


def jumping_in_python(y_true, y_pred):
    """The condition has left TensorFlow."""
    value = tf.reduce_mean(tf.square(y_true - y_pred))
    return value + 4.0 if float(value) > 0.001 else value


def smooth(y_true, y_pred):
    """The user's own, without a condition."""
    return tf.reduce_mean(tf.square(y_true - y_pred), axis=-1)


@pytest.fixture
def runs(monkeypatch):
    """Counts the runs op by op, and those of a loss alone."""
    counted = collections.Counter()
    run, record = LossRun.run, LossRun._record

    def op_by_op(*arguments):
        counted["op by op"] += 1
        return every_op_seen(*arguments)

    def run_loss(*arguments, **named):
        counted["loss"] += 1
        return run(*arguments, **named)

    def record_loss(*arguments):
        counted["loss"] += 1
        return record(*arguments)

    for module in (loss_run, recorder):
        monkeypatch.setattr(module, "every_op_seen", op_by_op)
    monkeypatch.setattr(LossRun, "run", run_loss)
    monkeypatch.setattr(LossRun, "_record", record_loss)
    return counted


def trained(eager, loss, kind=Chain):
    """A fit of a model whose layer asks a condition; returns its codes."""
    layers = [keras.layers.Dense(4), Choosing(eager), keras.layers.Dense(3)]
    model = kind(layers)
    model.compile("sgd", loss, run_eagerly=eager)
    callback = GradHealthCallback(every=1)
    model.fit(X, Y, batch_size=8, verbose=0, callbacks=[callback])
    return [d.code for d in callback.report.diagnoses if d.severity != "note"]


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("kind", [Chain, OwnStep])
def test_condition_in_a_layer(kind, eager, runs):
    """A loss of Keras' cannot jump there: nothing runs op by op."""
    assert [] == trained(eager, "mse", kind)
    assert {} == runs


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_loss_of_the_users_own_without_a_condition(eager, runs):
    """Beside a layer with one that a trace can follow."""
    model = keras.Sequential([keras.layers.Dense(4), Choosing(False)])
    model.add(keras.layers.Dense(3))
    model.compile("sgd", smooth, run_eagerly=eager)
    callback, _ = fit(model)
    assert () == callback.report.diagnoses
    assert {} == runs


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_loss_with_a_condition(eager, runs, monkeypatch):
    """It is measured, and the loss alone runs op by op, not the step.

    But for a step that no trace can follow: it runs once, to say which
    variables the loss trains.
    """
    monkeypatch.setattr(patches, "MOST_TRIALS", 0)
    assert ["GG241"] == trained(eager, jumping)
    assert 0 < runs["op by op"] == runs["loss"] + eager


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_python_condition_in_an_eager_loss():
    """No trace can follow it: the loss is asked."""
    assert ["GG241"] == trained(True, jumping_in_python)


@tf.function
def traced_before(error):
    """A function keeps the trace of its first call, wherever that was."""
    return tf.where(error > 1.0, error + 2.0, error)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_condition_in_a_function_that_was_traced_before():
    """The call of the function stands in the loss, its ops do not."""
    traced_before(tf.zeros([16, 3]))

    def loss(y_true, y_pred):
        return tf.reduce_mean(traced_before(tf.abs(y_true - y_pred)), axis=-1)

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", loss)
    callback = GradHealthCallback(every=1)
    data = tf.data.Dataset.from_tensors((X, Y))
    model.fit(data, verbose=0, callbacks=[callback])
    assert ["GG241"] == [d.code for d in callback.report.diagnoses]
