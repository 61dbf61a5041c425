"""`tf.function`s have traces of their own for a while, and theirs again."""

import sys
import threading

import pytest
import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.functions import Functions


def counting():
    """A function, and the list of its traces."""
    traces = []

    @tf.function
    def function(x):
        traces.append(x.shape)
        return x + 1.0

    return function, traces


def test_traces_of_its_own():
    """Traced once for each side, and neither sees the other's."""
    function, traces = counting()
    functions = Functions()
    for _ in range(2):
        with functions.apart():
            assert 2.0 == function(1.0 * tf.ones(()))
            assert 1 == function.experimental_get_tracing_count()
        assert 0 == function.experimental_get_tracing_count()
    assert 1 == len(traces)
    for _ in range(2):
        function(tf.ones(()))
        with functions.apart(is_watching=False):
            function(tf.ones(()))
    assert 2 == len(traces)
    functions.forget()
    with functions.apart():
        function(tf.ones(()))
    assert 3 == len(traces)


def test_nobody_watches():
    """A function that was not seen keeps what it does."""
    function, _ = counting()
    with Functions().apart(is_watching=False):
        function(tf.ones(()))
    assert 1 == function.experimental_get_tracing_count()


def test_exception():
    """Everything is put back, also the trace function of a debugger."""
    function, _ = counting()
    calls = []

    def debugger(frame, event, given):
        calls.append(frame.f_code.co_name)

    known = sys.gettrace()
    sys.settrace(debugger)
    try:
        with pytest.raises(ZeroDivisionError), Functions().apart():
            function(tf.ones(()))
            raise ZeroDivisionError
        found = sys.gettrace()
    finally:
        sys.settrace(known)
    assert debugger is found
    assert "_call" in calls
    assert 0 == function.experimental_get_tracing_count()


def test_debugger_that_begins_inside():
    """What takes over the trace function keeps it."""
    known = sys.gettrace()
    try:
        with Functions().apart():
            sys.settrace(print)
        found = sys.gettrace()
    finally:
        sys.settrace(known)
    assert print is found


def test_inside_of_its_first_trace():
    """A function may be called apart while it is being traced."""
    traces, depth = [], []

    @tf.function
    def function(x):
        traces.append(x)
        if not depth:
            depth.append(1)
            with Functions().apart():
                function(x)
            depth.clear()
        return x + 1.0

    assert 2.0 == function(tf.ones(()))
    assert 2.0 == function(tf.ones(()))
    assert 2 == len(traces)
    assert 1 == function.experimental_get_tracing_count()


def test_function_that_makes_a_variable():
    """The first call makes it, wherever that is; later ones do not."""
    known = []

    @tf.function
    def function(x):
        if not known:
            known.append(tf.Variable(3.0))
        return x * known[0]

    with Functions().apart():
        assert 6.0 == function(tf.constant(2.0))
    assert 6.0 == function(tf.constant(2.0))
    assert 1 == len(known)


def test_threads_that_overlap():
    """The last one to leave puts back what the first one found."""
    function, traces = counting()
    functions, others = Functions(), threading.Event()
    ready = threading.Event()

    def run():
        with functions.apart():
            ready.set()
            others.wait(10)
            function(tf.ones(()))

    thread = threading.Thread(target=run)
    with functions.apart():
        function(tf.ones(()))
        thread.start()
        assert ready.wait(10)
    others.set()
    thread.join()
    assert 1 == len(traces)
    assert 0 == function.experimental_get_tracing_count()
