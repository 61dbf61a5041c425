"""The `tf.function`s that a user's own step calls.

Such a function keeps its traces for good. One that was made while an
optimizer is hooked, or makes no update, must never run in a step that is not.
"""

import contextlib
import functools
import gc
import inspect
import itertools
import operator
import threading
import types

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from keras_gradguard.backend.tensorflow.internals.graphs import (
    calls_function,
    function_graph_here,
    outermost,
)
from keras_gradguard.backend.tensorflow.internals.python_hooks import (
    calls_traced,
)

_KIND = type(tf.function(lambda: None))

# Where Python enters a `tf.function`; `self` is the function.
ENTRIES = tuple(
    inspect.unwrap(method).__code__
    for method in (
        _KIND.__call__,
        _KIND._get_concrete_function_garbage_collected,
    )
)

# What a function knows of its traces.
_KEPT = ("_function_cache", "_function_captures")
_MADE = (
    "_created_variables",
    "_variable_creation_config",
    "_no_variable_creation_config",
    "_concrete_variable_creation_fn",
)


def without_traces(function):
    """Returns the traces, none, of a function that was never called.

    Args:
        function: A `tf.function`; it is left as it is.
    """
    names = vars(function)
    traces = {name: type(names[name])() for name in _KEPT if name in names}
    return traces | dict.fromkeys(_MADE[:-1])


def exchanged(function, traces):
    """Gives a function other traces.

    Args:
        function: A `tf.function`. One that is being traced right now goes on
            with the traces that it had as that began.
        traces: What this function or `without_traces` has returned.

    Returns:
        The traces that it had.
    """
    names = vars(function)
    known = {n: names.pop(n) for n in (*_KEPT, *_MADE) if n in names}
    names.update(traces)
    return known


def is_compiled_here():
    """Returns whether XLA compiles the function that is traced here."""
    graph = tf.compat.v1.get_default_graph()
    return control_flow_util.GraphOrParentsInXlaContext(graph)


def specs_traced(function):
    """Returns the specs of the iterators that a function was traced for.

    Args:
        function: A `tf.function`.
    """
    known = function._list_all_concrete_functions()
    arguments = [trace.structured_input_signature[0] for trace in known]
    specs = [given[0] for given in arguments if len(given) == 1]
    return [spec for spec in specs if isinstance(spec, tf.data.IteratorSpec)]


def graphs_traced(function):
    """Returns the graphs of a function's traces, by the type of their op.

    Args:
        function: A `tf.function`.
    """
    known = vars(function)["_function_cache"].values()
    return {tf.compat.as_str(trace.name): trace.graph for trace in known}


def functions_entered(last):
    """Returns the `tf.function`s that are being traced here, inner first.

    Args:
        last: Code of the frame up to which the stack is searched.
    """
    found, frame = [], inspect.currentframe()
    while frame is not None and frame.f_code is not last:
        if frame.f_code in ENTRIES:
            found.append(frame.f_locals["self"])
        frame = frame.f_back
    return found


def _living():
    """Returns the `tf.function`s of the process.

    `gc.get_referrers` would be faster. It looks into each object, and some of
    TensorFlow's do not stand that while a step runs: the process ends.
    """
    found = gc.get_objects()
    is_one = map(operator.is_, map(type, found), itertools.repeat(_KIND))
    return list(itertools.compress(found, is_one))


# The methods of a `tf.function` that begin a call or a trace.
_METHODS = ("_call", "_get_concrete_function_garbage_collected")


class _CallHooks:
    """Tells who watches of the calls of `tf.function`s in some thread.

    Python's trace function would tell of them too, and of every other call:
    a step is traced in twice the time then. So each function has two of its
    methods replaced by attributes of its own, as long as anybody watches.
    """

    def __init__(self):
        self._lock = threading.RLock()
        self._watching, self._hooked = [], {}

    @contextlib.contextmanager
    def watching(self, see, guarded):
        """Calls a function before each `tf.function` that this thread calls.

        Args:
            see: Gets the `tf.function`, one that is older than the block.
            guarded: Its `barrier` is the block in which it is called.

        Yields:
            A function that returns those that were made in the block and
            traced in the graph that is made here.
        """
        entry = threading.get_ident(), see, guarded
        graph = function_graph_here()
        here = outermost(graph)
        with self._lock:
            self._watching.append(entry)
            known = _living()
            for function in known:
                self._hook(function)
        ids = set(map(id, known))
        try:
            yield lambda: [
                function
                for function in (_living() if calls_function(graph) else ())
                if id(function) not in ids and _is_traced_in(function, here)
            ]
        finally:
            with self._lock:
                self._watching.remove(entry)
                if not self._watching:
                    self._unhook()

    def _hook(self, function):
        if id(function) not in self._hooked:
            self._hooked[id(function)] = function
            for name in _METHODS:
                run = functools.partial(self._run, function, name)
                vars(function)[name] = run

    def _unhook(self):
        for function in self._hooked.values():
            for name in _METHODS:
                vars(function).pop(name, None)
        self._hooked = {}

    def _run(self, function, name, *args, **kwargs):
        thread = threading.get_ident()
        for known, see, guarded in tuple(self._watching):
            if known == thread:
                with guarded.barrier:
                    see(function)
        return getattr(_KIND, name)(function, *args, **kwargs)


_hooks = _CallHooks()


def _is_traced_in(function, graph):
    """Returns whether a function has a trace inside of another one's."""
    return any(
        outermost(trace) is graph for trace in graphs_traced(function).values()
    )


# Who looks at a step outside of the training may fail.
_OPEN = types.SimpleNamespace(barrier=contextlib.nullcontext())


class Functions:
    """Gives `tf.function`s traces of their own while a block runs.

    A function is known once it was called in a block that watches. It gets
    back what it had as the block ends, and its own traces in the next block.
    They live as long as this object: graphs that call them lead there.

    Args:
        guarded: Its `barrier` is the block in which the call of a function is
            taken in: what fails there must not end the step.
    """

    def __init__(self, guarded=_OPEN):
        self._guarded = guarded
        self._known, self._old = {}, []
        self._num_blocks = 0
        self._lock = threading.Lock()

    def __len__(self):
        return len(self._known)

    def forget(self, is_called=True):
        """Begins with no traces in the next block.

        Args:
            is_called: Whether graphs that stay call the functions.
        """
        if not self._num_blocks:
            if is_called:
                self._old.append(self._known)
            self._known = {}

    @contextlib.contextmanager
    def apart(self, is_watching=True):
        """Gives the functions that are known traces of their own.

        Args:
            is_watching: Whether those that are called get to be known.
        """
        watching = contextlib.nullcontext(list)
        if is_watching and (tf.executing_eagerly() or gc.get_freeze_count()):
            # To look for all functions takes longer than an eager step, and
            # the collector does not show those that were there at a `freeze`.
            watching = self._watching_calls()
        elif is_watching:
            watching = _hooks.watching(self._meet, self._guarded)
        self._change(1)
        try:
            with watching as made:
                try:
                    yield
                finally:
                    for function in made():
                        # As it was before the block, without any trace.
                        traces = without_traces(function)
                        self._known[id(function)] = function, traces
        finally:
            self._change(-1)

    @contextlib.contextmanager
    def _watching_calls(self):
        with calls_traced(self._see, is_beside=True):
            yield list

    def _change(self, number):
        """Exchanges the traces as the first block begins, the last ends."""
        with self._lock:
            has_been = self._num_blocks > 0
            self._num_blocks += number
            if has_been != (self._num_blocks > 0):
                for key, known in self._known.items():
                    self._known[key] = _exchanged(*known)

    def _see(self, frame, event, _):
        if event == "call" and frame.f_code in ENTRIES:
            with self._guarded.barrier:
                self.meet(frame)

    def meet(self, frame):
        """Takes in the call of a function, which it is about to begin.

        Args:
            frame: Its frame; the code is one of `ENTRIES`.
        """
        self._meet(frame.f_locals["self"])

    def _meet(self, function):
        if id(function) not in self._known:
            traces = without_traces(function)
            self._known[id(function)] = _exchanged(function, traces)

    def are_known(self, functions):
        """Returns whether some functions have traces of their own here."""
        return all(id(function) in self._known for function in functions)


def _exchanged(function, traces):
    return function, exchanged(function, traces)
