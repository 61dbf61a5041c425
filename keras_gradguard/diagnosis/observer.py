"""Watches a training step while it is traced.

Python's own tracing (`sys.settrace`) shows which layer makes which op, what
each loss returns and what the tape is asked for, so that nothing has to be
patched.
"""

import inspect
import sys

import keras
import tensorflow as tf

from keras_gradguard.diagnosis import function_internals, internals
from keras_gradguard.diagnosis.seen import (
    AddLossCall,
    LossCall,
    TapeCall,
)


class Observer:
    """Sees the calls of layers, losses and tapes in this thread.

    Args:
        trace: The `Trace` to fill.
        now: Returns `(graph, number of its next op)`; by default those of
            the graph that is being traced.
        functions: The `Functions` that are to know what is called.
    """

    def __init__(self, trace, now=None, functions=None):
        self._trace = trace
        self._now = now or _now
        self._tapes = {}
        self._before = None
        self._depth = 0
        self._on_call = {
            _code(keras.layers.Layer.__call__): self._layer,
            _code(keras.losses.Loss.__call__): self._loss,
            _code(keras.layers.Layer.losses.fget): self._extra,
            _code(keras.layers.Layer.add_loss): self._add,
            tf.GradientTape.gradient.__code__: self._gradient,
            internals.TAPE_START: self._tape_start,
            internals.TAPE_STOP: self._tape_stop,
        }
        if functions is not None:
            entries = function_internals.ENTRIES
            self._on_call |= dict.fromkeys(entries, functions.meet)

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self._see)

    def __exit__(self, *_):
        sys.settrace(self._before)

    def _see(self, frame, event, _):
        on_call = self._on_call.get(frame.f_code)
        if on_call is None or event != "call":
            return None
        frame.f_trace_lines = False
        on_return = on_call(frame)
        if on_return is None:
            return None

        def at_return(frame, event, value):
            if event == "return":
                on_return(value)
            return at_return

        return at_return

    def _layer(self, frame):
        layer, graph, first = frame.f_locals["self"], *self._now()
        self._trace.called.append(layer)
        place = len(self._trace.layers)
        self._trace.layers.append((id(graph), first, first, ""))
        self._depth += 1

        def done(_):
            self._depth -= 1
            path = layer.path or layer.name
            last = self._now()[1]
            self._trace.layers[place] = (id(graph), first, last, path)

        return done

    def _loss(self, frame):
        here = frame.f_locals
        loss, y_true, y_pred = here["self"], here["y_true"], here["y_pred"]
        self._trace.called.append(loss)
        is_inner = self._depth > 0
        self._depth += 1

        def done(value):
            self._depth -= 1
            function = vars(loss).get("fn", loss.call)
            call = LossCall(
                loss.name, y_pred, value, function, loss, y_true, is_inner
            )
            self._trace.losses.append(call)

        return done

    def _extra(self, frame):
        del frame
        return lambda losses: self._trace.extra_losses.extend(losses or ())

    def _add(self, frame):
        layer, values = frame.f_locals["self"], frame.f_locals["loss"]
        is_activity = frame.f_back.f_code is _code(keras.layers.Layer.__call__)
        call = AddLossCall(layer, tensors_of(values), is_activity)
        self._trace.added.append(call)

    def _tape_start(self, frame):
        intervals = self._tapes.setdefault(id(frame.f_locals["self"]), [])
        intervals.append([*self._now(), None])

    def _tape_stop(self, frame):
        intervals = self._tapes.get(id(frame.f_locals["self"]))
        if intervals:
            intervals[-1][2] = self._now()[1]

    def _gradient(self, frame):
        here, caller = frame.f_locals, frame.f_back
        self._trace.targets.append(
            TapeCall(
                tensors_of(here["target"]),
                keras.tree.flatten(here["sources"]),
                self._tapes.get(id(here["self"]), []),
                (caller.f_code.co_filename, caller.f_code.co_name),
                tensors_of(here["output_gradients"]),
            )
        )


def tensors_of(nest):
    """Returns the tensors in a nest of values, flat."""
    return [t for t in keras.tree.flatten(nest) if isinstance(t, tf.Tensor)]


def _now():
    graph = tf.compat.v1.get_default_graph()
    return graph, internals.num_ops(graph)


def _code(function):
    return inspect.unwrap(function).__code__
