"""Watches a training step while it is traced or runs.

Python's own tracing (`sys.settrace`) shows which layer makes which op, what
each loss returns and what the tape is asked for, so that nothing has to be
patched.
"""

import contextlib
import inspect
import os
import threading

import keras
import numpy as np
import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.batches import tensors_of
from keras_gradguard.backend.tensorflow.internals.eager import (
    LOOK_UPS,
    NUMPY_FUNCTION,
    RECORD_OPERATION,
    function_graph,
    read_outs,
)
from keras_gradguard.backend.tensorflow.internals.functions import (
    ENTRIES,
    graphs_traced,
)
from keras_gradguard.backend.tensorflow.internals.graphs import (
    FUNCTION_CALL,
    TAPE_START,
    TAPE_STOP,
    num_ops,
    stack_here,
)
from keras_gradguard.backend.tensorflow.internals.python_hooks import (
    calls_profiled,
    calls_traced,
)
from keras_gradguard.backend.tensorflow.tracing.seen import (
    SeenAddLoss,
    SeenLoss,
    SeenReadOut,
    SeenTape,
)
from keras_gradguard.model.optimizers import OPTIMIZER_MADE
from keras_gradguard.source.frames import (
    PACKAGE,
    is_users,
    place_at,
    user_place,
)
from keras_gradguard.source.syntax import names_on


def frames_here():
    """Returns the frames of the code that runs now, the outermost first.

    Those of this package at the end, which look at it, are left out.
    """
    stack = stack_here()
    frames = [(f.filename, f.lineno, f.name) for f in stack]
    while frames and frames[-1][0].startswith(PACKAGE + os.sep):
        frames.pop()
    return tuple(frames)


class Observer:
    """Sees the calls of layers, losses and tapes in this thread.

    Args:
        trace: The `Seen` to fill.
        now: Returns `(graph, number of its next op)`; by default those of
            the graph that is being traced.
        functions: The `Functions` that are to know what is called.
    """

    def __init__(self, trace, now=None, functions=None):
        self._trace = trace
        self._now = now or _now
        self._tapes = {}
        self._depth, self._fault = 0, None
        self._on_call = {
            _code(keras.layers.Layer.__call__): self._layer,
            _code(keras.losses.Loss.__call__): self._loss,
            _code(keras.layers.Layer.losses.fget): self._extra,
            _code(keras.layers.Layer.add_loss): self._add,
            tf.GradientTape.gradient.__code__: self._gradient,
            TAPE_START: self._tape_start,
            TAPE_STOP: self._tape_stop,
        }
        if functions is not None:
            entries = ENTRIES
            self._on_call |= dict.fromkeys(entries, functions.meet)

    @contextlib.contextmanager
    def looking(self):
        """Looks at what this thread calls while the block runs.

        A fault, or Ctrl-C while this looks, is raised as the block ends: in
        the midst of it, it would keep a tape from being left.
        """
        try:
            with calls_traced(self._see):
                yield
        finally:
            if self._fault is not None:
                raise self._fault

    def _see(self, frame, event, _):
        # A step makes a million calls: most of them end here.
        if event != "call" or frame.f_code not in self._on_call:
            return None
        if self._fault is not None:
            return None
        on_return = None
        try:
            on_return = self._look(frame)
        except BaseException as fault:  # noqa: BLE001
            self._fault = fault
        if on_return is None:
            return None

        def at_return(frame, event, value):
            if event == "return" and self._fault is None:
                try:
                    on_return(value)
                except BaseException as fault:  # noqa: BLE001
                    self._fault = fault
            return at_return

        return at_return

    def _look(self, frame):
        """Takes in a call; returns what takes in its value, or `None`."""
        on_call = self._on_call.get(frame.f_code)
        if on_call is None:
            return None
        frame.f_trace_lines = False
        return on_call(frame)

    def _layer(self, frame):
        layer, graph, first = frame.f_locals["self"], *self._now()
        self._trace.called.append(layer)
        place = len(self._trace.layers)
        self._trace.layers.append((id(graph), first, first, ""))
        self._depth += 1

        def done(value):
            self._depth -= 1
            self._trace.returned.append((layer, value))
            path = layer.path or layer.name
            last = self._now()[1]
            self._trace.layers[place] = (id(graph), first, last, path)

        return done

    def _loss(self, frame):
        here = frame.f_locals
        loss, y_true, y_pred = here["self"], here["y_true"], here["y_pred"]
        weight = here["sample_weight"]
        self._trace.called.append(loss)
        is_inner = self._depth > 0
        self._depth += 1

        def done(value):
            self._depth -= 1
            function = vars(loss).get("fn", loss.call)
            call = SeenLoss(
                loss.name,
                y_pred,
                value,
                function,
                loss,
                y_true,
                is_inner,
                weight,
            )
            self._trace.losses.append(call)

        return done

    def _extra(self, frame):
        del frame
        return lambda losses: self._trace.extra_losses.extend(losses or ())

    def _add(self, frame):
        layer, values = frame.f_locals["self"], frame.f_locals["loss"]
        is_activity = frame.f_back.f_code is _code(keras.layers.Layer.__call__)
        call = SeenAddLoss(layer, tensors_of(values), is_activity)
        self._trace.added.append(call)

    def _tape_start(self, frame):
        intervals = self._tapes.setdefault(id(frame.f_locals["self"]), [])
        intervals.append([*self._now(), None])

    def _tape_stop(self, frame):
        intervals = self._tapes.get(id(frame.f_locals["self"]))
        if intervals:
            intervals[-1][2] = self._now()[1]

    def _gradient(self, frame):
        here = frame.f_locals
        self._trace.targets.append(
            SeenTape(
                tensors_of(here["target"]),
                keras.tree.flatten(here["sources"]),
                self._tapes.get(id(here["self"]), []),
                user_place(frames_here()),
                tensors_of(here["output_gradients"]),
            )
        )


@contextlib.contextmanager
def _threads_traced(see):
    """Calls a function for the calls of new threads: replicas run in some."""
    before = threading.gettrace()
    threading.settrace(see)
    try:
        yield
    finally:
        threading.settrace(before)


def _now():
    graph = tf.compat.v1.get_default_graph()
    return graph, num_ops(graph)


def _code(function):
    return inspect.unwrap(function).__code__


_NUMPY = os.path.dirname(np.__file__) + os.sep
# It hands the tensor to a compiled function of NumPy's, out of sight.
_KERAS_READS = {keras.ops.convert_to_numpy.__code__: ("x", "numpy")}


class LiveObserver(Observer):
    """Also sees what is read out, functions, and optimizers that are made.

    Args:
        recording: The `Recording` to fill; its `seen` takes what graphs show
            as well.
        eager: What stands for the graph of eager ops.
        model: The model that is watched.
        barrier: The `FaultBarrier` for what is called here.
        note_function: Is called as the outermost `tf.function` returns.
        note_optimizer: Is called with each optimizer that has been made.
    """

    def __init__(
        self, recording, eager, model, barrier, note_function, note_optimizer
    ):
        super().__init__(recording.seen, self._position)
        self._recording = recording
        self._eager = eager
        self._model = model
        self._barrier = barrier
        self._note_function = note_function
        self._note_optimizer = note_optimizer
        self.is_on = True
        self._thread = threading.get_ident()
        self._on_call |= {
            RECORD_OPERATION: self._recorded,
            NUMPY_FUNCTION: self._numpy_function,
            FUNCTION_CALL: self._function,
            OPTIMIZER_MADE: self._optimizer,
        }
        self._ignored = {}
        self._profiling = contextlib.ExitStack()
        self._causes = {**read_outs(), **_KERAS_READS}

    @contextlib.contextmanager
    def looking(self):
        """Looks at what is called here, and in threads that begin here."""
        with super().looking(), _threads_traced(self._see), self._profiling:
            self._profile(True)
            try:
                yield
            finally:
                self.is_on = False

    def _profile(self, is_on):
        if is_on:
            own = calls_profiled(self._see_compiled)
            self._profiling.enter_context(own)
        else:
            self._profiling.close()

    def _position(self):
        if tf.executing_eagerly():
            return self._eager, self._recording.num_ops
        graph = tf.compat.v1.get_default_graph()
        return graph, num_ops(graph)

    def _see(self, frame, event, _):
        # A thread that was started in the block may call this for ever.
        if not self.is_on:
            return None
        # A step makes a million calls, and a code object is slow to hash.
        key = id(frame.f_code)
        if key in self._ignored or event != "call":
            return None
        if not self._barrier.is_open or self._fault is not None:
            return None
        on_return = None
        try:
            with self._barrier.guarded():
                if self._is_wanted(frame.f_code):
                    on_return = self._see_call(frame)
                else:
                    self._ignored[key] = frame.f_code
        except KeyboardInterrupt as interrupt:
            self._keep(interrupt)
        if on_return is None:
            return None

        def at_return(frame, event, value):
            if event == "return" and self._barrier.is_open:
                try:
                    with self._barrier.guarded():
                        on_return(value)
                except KeyboardInterrupt as interrupt:
                    self._keep(interrupt)
            return at_return

        return at_return

    def _keep(self, interrupt):
        """Keeps Ctrl-C until the look ends; a look that is over tells it."""
        if not self.is_on:
            raise interrupt
        self._fault = interrupt

    def _is_wanted(self, code):
        return (
            code in self._on_call
            or code in self._causes
            or code in LOOK_UPS
            or code.co_filename.startswith(_NUMPY)
        )

    def _see_call(self, frame):
        code = frame.f_code
        if code in self._causes:
            name, cause = self._causes[code]
            self._read(frame, frame.f_locals.get(name), cause)
            return None
        if code.co_filename.startswith(_NUMPY):
            for value in list(frame.f_locals.values()):
                self._read(frame, value, "numpy")
            return None
        if code.co_name == "__getattr__" and code in LOOK_UPS:
            # So NumPy's compiled functions ask what they were given.
            if frame.f_locals.get("name", "").startswith("__array"):
                self._read(frame, frame.f_locals["self"], "numpy")
            return None
        return self._look(frame)

    def _see_compiled(self, frame, event, called):
        """`np.array` and the like take the memory of a tensor as it is."""
        if event != "c_call" or getattr(called, "__module__", "") != "numpy":
            return
        is_on = self.is_on and self._barrier.is_open and self._recording.num_ops
        if is_on and is_users(frame.f_code.co_filename):
            with self._barrier.guarded():
                self._read_in_line(frame, self._recording.latest())

    def _read_in_line(self, frame, latest):
        code = frame.f_code
        place = place_at(code.co_filename, frame.f_lineno, code.co_name)
        values = [frame.f_locals.get(name) for name in names_on(place)]
        seen = [v for v in values if self._recording.maker(v) is not None]
        for tensor in seen or latest:
            self._read(frame, tensor, "numpy")

    def _read(self, frame, tensor, cause):
        if not isinstance(tensor, tf.Tensor) or not hasattr(tensor, "numpy"):
            return
        if self._recording.maker(tensor) is None:
            return
        while frame is not None and not is_users(frame.f_code.co_filename):
            frame = frame.f_back
        if frame is not None:
            code = frame.f_code
            place = place_at(code.co_filename, frame.f_lineno, code.co_name)
            self._trace.read.append(SeenReadOut(tensor, cause, place))

    def _layer(self, frame):
        done = super()._layer(frame)
        if frame.f_locals["self"] is not self._model:
            return done

        def outputs_too(value):
            self._trace.outputs += tensors_of(value)
            done(value)

        return outputs_too

    def _recorded(self, frame):
        here = frame.f_locals
        if not tf.executing_eagerly():
            return
        outputs = here["output_tensors"]
        body = function_graph(frame)
        if body is None:
            self._recording.add_op(
                here["op_type"],
                here["input_tensors"],
                (),
                outputs,
                here["backward_function"],
            )
        elif outputs:
            op = self._recording.maker(outputs[0])
            if op is not None:
                op.native.body = body

    def _numpy_function(self, frame):
        for tensor in tensors_of(frame.f_locals["inp"]):
            self._read(frame, tensor, "numpy")

    def _function(self, frame):
        if not tf.executing_eagerly():
            return None
        function, first = frame.f_locals["self"], self._recording.num_ops
        is_here = self._thread == threading.get_ident()
        if is_here:
            # No number is read out of a graph, and this would slow it down.
            self._profile(False)

        def done(_):
            if is_here and self.is_on:
                self._profile(True)
            if is_here:
                self._give_bodies(function, first)
            self._note_function()

        return done

    def _give_bodies(self, function, first):
        """A function that no tape asks about tells of itself nowhere else."""
        unknown = [
            op
            for op in self._recording.graph.ops[first:]
            if op.native.body is None and op.type.startswith("__")
        ]
        if unknown:
            graphs = graphs_traced(function)
            for op in unknown:
                op.native.body = graphs.get(op.type)

    def _optimizer(self, frame):
        optimizer = frame.f_locals["self"]
        return lambda _: self._note_optimizer(optimizer)
