"""What a healthy step costs, in things that can be counted.

Time is for `benchmarks/`; these are what it is made of.
"""

import collections
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_gradguard
from keras_gradguard import GradHealthCallback

PACKAGE = keras_gradguard.__path__[0]
# Ops that TensorFlow folds, or that stand for what a step is given.
FREE = {"Const", "Placeholder", "Identity", "NoOp"}
NUM_LAYERS = 4


def made(optimizer="adam"):
    """A model of eight variables, and its data."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(5, activation="relu") for _ in range(3)]
    head = keras.layers.Dense(2)
    model = keras.Sequential([keras.Input((4,)), *layers, head])
    model.compile(optimizer, "mse")
    return model


def data(num_steps):
    """As many batches of the same shape."""
    x = np.ones((8 * num_steps, 4), "float32")
    y = np.ones((8 * num_steps, 2), "float32")
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(8, True)


def step_graph(model, callbacks):
    """The graph of a training step, that of its last trace."""
    graphs, original = [], model.optimizer.apply

    def apply(*arguments):
        graphs.append(tf.compat.v1.get_default_graph())
        return original(*arguments)

    model.optimizer.apply = apply
    model.fit(data(2), verbose=0, callbacks=callbacks)
    del model.optimizer.apply
    return graphs[-1]


def counted(graph):
    """How many ops of each kind a graph holds, without free ones."""
    kinds = collections.Counter(op.type for op in graph.get_operations())
    return collections.Counter(
        {kind: n for kind, n in kinds.items() if kind not in FREE}
    )


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_ops_of_a_step(optimizer):
    """One op for each gradient, two branches, and little beside."""
    plain = step_graph(made(optimizer), [])
    guarded = step_graph(made(optimizer), [GradHealthCallback()])
    more = counted(guarded) - counted(plain)
    assert 2 * NUM_LAYERS == more["L2Loss"]
    assert 2 == more["If"]
    assert sum(more.values()) <= 2 * NUM_LAYERS + 14, more
    assert len(plain.outputs) == len(guarded.outputs)


def test_variables_of_a_step():
    """Each costs a small model about a microsecond in every step."""
    plain = step_graph(made(), [])
    guarded = step_graph(made(), [GradHealthCallback()])
    assert len(guarded.inputs) - len(plain.inputs) <= 12


class Counter(keras.callbacks.Callback):
    """Counts what Python does in each step, the first ones left out."""

    def __init__(self):
        super().__init__()
        self.steps, self._known = [], None

    def on_train_batch_begin(self, batch, logs=None):
        self.stop()
        self._known = collections.Counter()
        sys.setprofile(self._see)

    def stop(self):
        sys.setprofile(None)
        if self._known is not None:
            self.steps.append(self._known)
            self._known = None

    def _see(self, frame, event, given):
        if event == "c_call" and given.__name__.startswith("TFE_Py_"):
            self._known[given.__name__] += 1
        elif event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            self._known["calls"] += 1


def steps_of(callbacks, num_steps=30):
    """What Python does in each step of a training."""
    counter, model = Counter(), made()
    try:
        callbacks = [counter, *callbacks]
        model.fit(data(num_steps), verbose=0, callbacks=callbacks)
    finally:
        counter.stop()
    return counter.steps[5:-1]


def executed(step):
    """How many ops Python has run by itself."""
    names = ("TFE_Py_Execute", "TFE_Py_FastPathExecute")
    return sum(step[name] for name in names)


def test_python_of_a_step():
    """Between two records no op is run, and next to no Python."""
    plain = steps_of([])
    guarded = steps_of([GradHealthCallback(every=10**9)])
    expected = [executed(step) for step in plain]
    assert expected == [executed(step) for step in guarded]
    assert max(step["calls"] for step in guarded) <= 40


def test_python_of_a_record(tmp_path):
    """A record reads its figures at once, however many variables."""
    plain = steps_of([])
    callback = GradHealthCallback(log_dir=tmp_path, every=1)
    guarded = steps_of([callback])
    more = [
        executed(step) - executed(known)
        for step, known in zip(guarded, plain, strict=True)
    ]
    # The due number, the record, the number of updates; and the writer.
    assert max(more[4:]) <= 4
