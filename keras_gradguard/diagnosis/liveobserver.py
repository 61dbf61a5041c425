"""Watches steps that train, not scratch traces: graphs and eager ops alike."""

import os
import sys
import threading

import keras
import numpy as np
import tensorflow as tf

from keras_gradguard.diagnosis import (
    eager_internals,
    function_internals,
    internals,
    keras_internals,
    source,
)
from keras_gradguard.diagnosis.observer import Observer, tensors_of
from keras_gradguard.diagnosis.readout import names_on
from keras_gradguard.diagnosis.seen import ReadOut
from keras_gradguard.diagnosis.writes import is_watch

_NUMPY = os.path.dirname(np.__file__) + os.sep
# It hands the tensor to a compiled function of NumPy's, out of sight.
_KERAS_READS = {keras.ops.convert_to_numpy.__code__: ("x", "numpy")}


class LiveObserver(Observer):
    """Also sees what is read out, functions, and optimizers that are made.

    Args:
        recording: The `Recording` to fill; its trace takes what graphs show
            as well.
        eager: What stands for the graph of eager ops.
        model: The model that is watched.
        door: The `Door` at which a fault of what is called here is caught.
        see_function: Is called as the outermost `tf.function` returns.
        see_optimizer: Is called with each optimizer that has been made.
    """

    def __init__(
        self, recording, eager, model, door, see_function, see_optimizer
    ):
        super().__init__(recording.trace, self._position)
        self._recording = recording
        self._eager = eager
        self._model = model
        self._door = door
        self._see_function = see_function
        self._see_optimizer = see_optimizer
        self.is_on = True
        self._thread = threading.get_ident()
        self._on_call |= {
            eager_internals.RECORD_OPERATION: self._recorded,
            eager_internals.NUMPY_FUNCTION: self._numpy_function,
            internals.FUNCTION_CALL: self._function,
            keras_internals.OPTIMIZER_MADE: self._optimizer,
        }
        self._ignored = {}
        self._causes = {**eager_internals.read_outs(), **_KERAS_READS}

    def __enter__(self):
        super().__enter__()
        # Replicas run in threads of their own.
        self._before_threads = threading.gettrace()
        threading.settrace(self._see)
        self._profiled = sys.getprofile()
        self._profile(True)

    def __exit__(self, *_):
        self.is_on = False
        self._profile(False)
        threading.settrace(self._before_threads)
        super().__exit__()

    def _profile(self, is_on):
        own, before = self._see_compiled, self._profiled
        if before is None:
            sys.setprofile(own if is_on else None)
        elif is_watch(before):

            def both(frame, event, argument):
                before(frame, event, argument)
                own(frame, event, argument)

            sys.setprofile(both if is_on else before)

    def _position(self):
        if tf.executing_eagerly():
            return self._eager, len(self._recording.ops)
        graph = tf.compat.v1.get_default_graph()
        return graph, internals.num_ops(graph)

    def _see(self, frame, event, argument):
        # A thread that was started in the block may call this for ever.
        if not self.is_on:
            return None
        # A step makes a million calls, and a code object is slow to hash.
        key = id(frame.f_code)
        if key in self._ignored or event != "call":
            return None
        if not self._is_wanted(frame.f_code):
            self._ignored[key] = frame.f_code
            return None
        if not self._door.is_open:
            return None
        at_return = None
        with self._door.guarded():
            at_return = self._see_call(frame, event, argument)
        if at_return is None:
            return None

        def guarded(frame, event, value):
            if self._door.is_open:
                with self._door.guarded():
                    at_return(frame, event, value)
            return guarded

        return guarded

    def _is_wanted(self, code):
        return (
            code in self._on_call
            or code in self._causes
            or code in eager_internals.LOOK_UPS
            or code.co_filename.startswith(_NUMPY)
        )

    def _see_call(self, frame, event, argument):
        code = frame.f_code
        if code in self._causes:
            name, cause = self._causes[code]
            self._read(frame, frame.f_locals.get(name), cause)
            return None
        if code.co_filename.startswith(_NUMPY):
            for value in list(frame.f_locals.values()):
                self._read(frame, value, "numpy")
            return None
        if code.co_name == "__getattr__" and code in eager_internals.LOOK_UPS:
            # So NumPy's compiled functions ask what they were given.
            if frame.f_locals.get("name", "").startswith("__array"):
                self._read(frame, frame.f_locals["self"], "numpy")
            return None
        return super()._see(frame, event, argument)

    def _see_compiled(self, frame, event, called):
        """`np.array` and the like take the memory of a tensor as it is."""
        if event != "c_call" or getattr(called, "__module__", "") != "numpy":
            return
        ops = self._recording.ops
        is_on = self.is_on and self._door.is_open and ops
        if is_on and source.is_users(frame.f_code.co_filename):
            with self._door.guarded():
                self._read_in_line(frame, ops[-1].outputs)

    def _read_in_line(self, frame, latest):
        code = frame.f_code
        place = source.place(code.co_filename, frame.f_lineno, code.co_name)
        values = [frame.f_locals.get(name) for name in names_on(place)]
        seen = [v for v in values if self._recording.maker(v) is not None]
        for tensor in seen or latest:
            self._read(frame, tensor, "numpy")

    def _read(self, frame, tensor, cause):
        if not isinstance(tensor, tf.Tensor) or not hasattr(tensor, "numpy"):
            return
        if self._recording.maker(tensor) is None:
            return
        while frame is not None and not source.is_users(
            frame.f_code.co_filename
        ):
            frame = frame.f_back
        if frame is not None:
            code = frame.f_code
            place = source.place(code.co_filename, frame.f_lineno, code.co_name)
            self._trace.read.append(ReadOut(tensor, cause, place))

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
        body = eager_internals.function_graph(frame)
        if body is None:
            self._recording.see(
                here["op_type"],
                here["input_tensors"],
                (),
                outputs,
                here["backward_function"],
            )
        elif outputs:
            op = self._recording.maker(outputs[0])
            if op is not None:
                op.body = body

    def _numpy_function(self, frame):
        for tensor in tensors_of(frame.f_locals["inp"]):
            self._read(frame, tensor, "numpy")

    def _function(self, frame):
        if not tf.executing_eagerly():
            return None
        function, first = frame.f_locals["self"], len(self._recording.ops)
        is_here = self._thread == threading.get_ident()
        if is_here:
            # No number is read out of a graph, and this would slow it down.
            self._profile(False)

        def done(_):
            if is_here and self.is_on:
                self._profile(True)
            if is_here:
                self._give_bodies(function, first)
            self._see_function()

        return done

    def _give_bodies(self, function, first):
        """A function that no tape asks about tells of itself nowhere else."""
        unknown = [
            op
            for op in self._recording.ops[first:]
            if op.body is None and op.type.startswith("__")
        ]
        if unknown:
            graphs = function_internals.graphs_traced(function)
            for op in unknown:
                op.body = graphs.get(op.type)

    def _optimizer(self, frame):
        optimizer = frame.f_locals["self"]
        return lambda _: self._see_optimizer(optimizer)
