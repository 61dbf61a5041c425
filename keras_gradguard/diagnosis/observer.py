"""Watches a training step while it is traced.

Python's own tracing (`sys.settrace`) shows which layer makes which op, what
each loss returns and what the tape is asked for, so that nothing has to be
patched.
"""

import dataclasses
import inspect
import sys

import keras
import tensorflow as tf

from keras_gradguard.diagnosis import internals


@dataclasses.dataclass
class LossCall:
    """One call of a `keras.losses.Loss`.

    Args:
        name: Name of the loss.
        y_pred: The prediction that it got.
        value: What it returned.
        function: What computes it: a function, or a method of a subclass.
        loss: The loss.
        y_true: The targets that it got.
        is_inner: Whether another loss or a layer has called it.
    """

    name: str
    y_pred: object
    value: object
    function: object
    loss: object = None
    y_true: object = None
    is_inner: bool = False


@dataclasses.dataclass
class AddLossCall:
    """One `layer.add_loss(values)`.

    Args:
        layer: The layer.
        values: The tensors that it adds.
        is_activity: Whether Keras called it for an activity regulariser.
    """

    layer: object
    values: list
    is_activity: bool


@dataclasses.dataclass
class TapeCall:
    """One `tape.gradient(target, sources)`.

    Args:
        targets: The tensors that were differentiated.
        sources: The variables asked for.
        recorded: `(graph, first, last)` op numbers that the tape has seen.
        caller: `(file, function)` of the frame that asked.
        seeds: The gradients that the targets begin with; empty for ones.
    """

    targets: list
    sources: list
    recorded: list
    caller: tuple
    seeds: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class ReadOut:
    """A tensor whose plain numbers were taken out of TensorFlow.

    Args:
        tensor: The tensor.
        cause: What asked for them, as a finding names it.
        place: The user's line, a `Place`.
    """

    tensor: object
    cause: str
    place: object


@dataclasses.dataclass
class Trace:
    """What one traced training step has shown.

    Args:
        graph: The graph of the step.
        targets: A `TapeCall` for each loss that is differentiated.
        losses: The calls of Keras losses, in order.
        extra_losses: Values of regularisers and `add_loss` terms.
        added: The `AddLossCall`s.
        names: Name of each term of the loss, by the id of its tensor.
        layers: `(graph id, first op, last op, path)`, inner layers later.
        batch: Placeholders of the batch.
        outputs: What the model returned; empty for a custom `train_step`.
        called: The losses and layers that were called.
        read: The `ReadOut`s of an eager step.
        error: The exception that ended the trace, or `None`.
    """

    graph: object
    targets: list = dataclasses.field(default_factory=list)
    losses: list = dataclasses.field(default_factory=list)
    extra_losses: list = dataclasses.field(default_factory=list)
    added: list = dataclasses.field(default_factory=list)
    names: dict = dataclasses.field(default_factory=dict)
    layers: list = dataclasses.field(default_factory=list)
    batch: list = dataclasses.field(default_factory=list)
    outputs: list = dataclasses.field(default_factory=list)
    called: list = dataclasses.field(default_factory=list)
    read: list = dataclasses.field(default_factory=list)
    error: Exception | None = None

    def layer_of(self, op, number):
        """Returns the path of the innermost layer that made op `number`."""
        inner = None
        for graph, first, last, path in self.layers:
            if graph == id(op.graph) and first <= number < last:
                inner = path
        return inner


class Observer:
    """Sees the calls of layers, losses and tapes in this thread.

    Args:
        trace: The `Trace` to fill.
        now: Returns `(graph, number of its next op)`; by default those of
            the graph that is being traced.
    """

    def __init__(self, trace, now=None):
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
