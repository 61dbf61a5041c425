"""`tf.function`s have traces of their own for a while, and theirs again."""

import gc
import sys
import threading

import pytest
import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.functions import Functions


@pytest.fixture(autouse=True)
def _nothing_is_frozen():
    """As in a program that has not called `gc.freeze`."""
    gc.unfreeze()


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


def in_a_trace(run):
    """Calls a function while another one is traced."""

    @tf.function
    def step():
        run()
        return tf.ones(())

    return step.get_concrete_function()


def test_in_a_trace_python_is_not_traced():
    """Python's trace function would make the trace take twice as long."""
    function, traces = counting()
    functions, seen = Functions(), []

    def run():
        with functions.apart():
            seen.append(sys.gettrace())
            function(tf.ones(()))

    known = sys.gettrace()
    in_a_trace(run)
    assert [known] == seen
    assert 1 == len(traces)
    assert 0 == function.experimental_get_tracing_count()
    assert not {"_call", "_get_concrete_function_garbage_collected"} & {
        *vars(function)
    }


def test_function_that_a_trace_makes():
    """One that is first made and called in the block has no traces after."""
    made, others = [], []

    def run():
        with Functions().apart():
            made.append(counting()[0])
            made[0](tf.ones(()))
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()

    def elsewhere():
        others.append(counting()[0])
        others[0](tf.ones(()))

    in_a_trace(run)
    assert 0 == made[0].experimental_get_tracing_count()
    assert 1 == others[0].experimental_get_tracing_count()


def test_concrete_function_in_a_trace():
    """To ask for a trace is to be seen, as a call is."""
    function, _ = counting()

    def run():
        with Functions().apart():
            function.get_concrete_function(tf.TensorSpec(()))

    in_a_trace(run)
    assert 0 == function.experimental_get_tracing_count()


def test_other_thread_in_a_trace():
    """What another thread calls in the meantime stays as it is."""
    function, _ = counting()

    def run():
        with Functions().apart():
            thread = threading.Thread(target=lambda: function(tf.ones(())))
            thread.start()
            thread.join()

    in_a_trace(run)
    assert 1 == function.experimental_get_tracing_count()


def test_functions_that_the_collector_does_not_show():
    """`gc.freeze` hides what is there."""
    function, _ = counting()

    def run():
        with Functions().apart():
            function(tf.ones(()))

    gc.freeze()
    try:
        in_a_trace(run)
    finally:
        gc.unfreeze()
    assert 0 == function.experimental_get_tracing_count()
