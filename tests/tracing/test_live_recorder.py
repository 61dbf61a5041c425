"""What a custom loop shows: each private name, and a step as a graph."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import context

from keras_gradguard.backend.tensorflow.tracing import observer
from keras_gradguard.backend.tensorflow.tracing.recorder import LiveRecorder
from keras_gradguard.backend.tensorflow.tracing.seen import Seen
from keras_gradguard.errors import FaultBarrier
from tests.looping import X, network


class Looking:
    """A `LiveRecorder` that is open for a block."""

    def __init__(self, model):
        self.functions, self.optimizers = [], []
        self.sight = LiveRecorder(
            model,
            FaultBarrier(),
            lambda: self.functions.append(1),
            self.optimizers.append,
        )

    def __enter__(self):
        self.sight.open()
        return self

    def __exit__(self, *_):
        self.sight.close()


def test_functions_and_optimizers_are_seen():
    """`Function.__call__` and `TFOptimizer.__init__` still run as Python."""

    @tf.function
    def doubled(x):
        return 2.0 * x

    with Looking(network()) as looking:
        doubled(X)
        optimizer = keras.optimizers.Adam()
    doubled(X)
    assert [1] == looking.functions
    assert any(optimizer is found for found in looking.optimizers)


@pytest.mark.parametrize(
    ("read", "cause"),
    [
        (lambda t: t.numpy(), "python_value"),
        (lambda t: float(t[0, 0]), "python_value"),
        (lambda t: bool(t[0, 0] > 0), "tensor_as_bool"),
        (lambda t: np.exp(t), "numpy"),
        (lambda t: np.mean(t), "numpy"),
        (lambda t: np.array(t), "numpy"),
        (lambda t: np.asarray(2.0 * t), "numpy"),
        (lambda t: keras.ops.convert_to_numpy(t), "numpy"),
        (lambda t: tf.Variable(t), "rebuilt_constant"),
    ],
)
def test_read_outs_are_seen(read, cause):
    """At the line of the user's that asked, and not after the block."""
    with Looking(network()) as looking:
        t = 2.0 * X
        read(t)
        count = len(looking.sight.recording.seen.read)
    read(t)
    seen = looking.sight.recording.seen.read
    assert count == len(seen)
    assert cause in {found.cause for found in seen}
    assert {__file__} == {found.place.file for found in seen}


def test_a_recorded_step_is_a_graph():
    """Ops, captured variables and who uses what; nothing without a tape."""
    model = network()
    with Looking(model) as looking:
        assert looking.sight.trace_of(model.trainable_variables) is None
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.round(model(X)))
        tape.gradient(loss, model.trainable_variables)
        trace = looking.sight.trace_of(model.trainable_variables)
    types = [op.type for op in trace.graph.ops]
    assert 2 == types.count("MatMul")
    (rounded,) = [op for op in trace.graph.ops if op.type == "Round"]
    assert (False,) == trace.graph.oracle.passes(rounded, 0)[0]
    assert ["Sum"] == [op.type for op in rounded.outputs[0].consumers()]
    (handle,) = trace.graph.standing_for(model.layers[0].kernel)
    assert handle.native is model.layers[0].kernel.value.handle
    assert "net/hidden" == trace.graph.ops[types.index("MatMul")].layer
    looking.sight.forget()
    assert looking.sight.trace_of(model.trainable_variables) is None


def failing(*_):
    """Stands for a method that has a fault."""
    raise ZeroDivisionError("fault")


def test_look_that_cannot_begin_leaves_nothing(monkeypatch):
    """The callback that was set before the fault is gone as well."""
    monkeypatch.setattr(observer.LiveObserver, "_profile", failing)
    recorder = LiveRecorder(None, FaultBarrier(), failing, failing)
    with pytest.raises(ZeroDivisionError):
        recorder.open()
    assert not recorder.is_open
    assert [] == list(context.context().op_callbacks)
    assert sys.gettrace() is None and sys.getprofile() is None


@pytest.mark.parametrize("name", ["_tape_start", "_tape_stop", "_gradient"])
def test_fault_of_a_look_keeps_no_tape(name, monkeypatch):
    """It is raised once the look is over, and each tape has been left."""
    monkeypatch.setattr(observer.Observer, name, failing)
    value = tf.constant(2.0)
    looked = observer.Observer(Seen(None), lambda: (None, 0))
    with pytest.raises(ZeroDivisionError), looked.looking():
        with tf.GradientTape() as tape:
            tape.watch(value)
            square = value * value
        gradient = tape.gradient(square, value)
    assert 4.0 == float(gradient)
    assert pywrap_tfe.TFE_Py_TapeSetIsEmpty()
