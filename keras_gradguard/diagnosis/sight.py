"""Step 4: what a custom loop shows of its steps while it is looked at.

Open, it costs: each eager op is kept with its values, each Python call is
looked at. So it is open for the first step, and again once one is broken.
"""

import contextlib
import sys
import threading
from dataclasses import replace

import tensorflow as tf

from keras_gradguard.diagnosis import eager_internals, keras_internals
from keras_gradguard.diagnosis.liveobserver import LiveObserver
from keras_gradguard.diagnosis.rangraph import RanGraph
from keras_gradguard.diagnosis.recording import Recording
from keras_gradguard.diagnosis.seen import Trace

# A longer step is not followed op by op: its values take too much memory.
_MOST_OPS = 50_000


class Sight:
    """Sees the steps of a custom loop, as graphs or as eager ops.

    Args:
        model: The model that is watched.
        door: See `LiveObserver`.
        see_function: See `LiveObserver`.
        see_optimizer: See `LiveObserver`.
    """

    def __init__(self, model, door, see_function, see_optimizer):
        self._model = model
        self._seen = (see_function, see_optimizer)
        self._stack = contextlib.ExitStack()
        self._door = door
        self._home, self._thread = threading.get_ident(), None
        self._is_paused = False
        self._observer = None
        self.recording = None

    @property
    def is_open(self):
        """Whether the running code is looked at."""
        return self._thread is not None

    def open(self):
        """Begins to look, with nothing seen so far.

        Only where the block was entered: what looks is a thread's own.
        """
        if threading.get_ident() != self._home:
            return
        self.close()
        self.recording = Recording()
        self._eager = object()
        self._graph = None
        self._is_paused = False
        self._observer = LiveObserver(
            self.recording, self._eager, self._model, self._door, *self._seen
        )
        self._stack.enter_context(eager_internals.every_op_seen(self._see))
        self._stack.enter_context(self._observer)
        self._thread = threading.get_ident()

    def close(self):
        """Looks no longer; what has been seen is kept."""
        if self._thread == threading.get_ident():
            self._thread = None
            self._stack.close()

    def forget(self):
        """Lets go of what has been seen, which may be much."""
        self.recording = self._graph = None

    @contextlib.contextmanager
    def paused(self):
        """Sees nothing while the block runs: it is not the user's."""
        before, self._is_paused = self._is_paused, True
        observer = self._observer
        is_here = self.is_open and self._thread == threading.get_ident()
        looks = sys.gettrace(), sys.getprofile()
        if is_here:
            sys.settrace(None)
            sys.setprofile(None)
        try:
            yield
        finally:
            self._is_paused = before
            if is_here and self.is_open and self._observer is observer:
                sys.settrace(looks[0])
                sys.setprofile(looks[1])

    def _see(self, *ran):
        recording = self.recording
        if recording is None or self._is_paused:
            return
        if len(recording.ops) < _MOST_OPS and self._door.is_open:
            with self._door.guarded():
                recording.see(*ran)

    def trace_of(self, variables):
        """Returns what is known of how some variables get their gradients.

        Args:
            variables: Keras variables; a tape that was asked for one of them
                is preferred, the latest one.

        Returns:
            A `Trace`, or `None` if no tape was seen.
        """
        if self.recording is None or not self._door.is_open:
            return None
        seen = self.recording.trace
        calls = [call for call in seen.targets if call.targets]
        wanted = {id(v) for v in variables}
        wanted |= {id(getattr(v, "value", v)) for v in variables}
        about = [c for c in calls if any(id(s) in wanted for s in c.sources)]
        if not (about or calls):
            return None
        target = (about or calls)[-1].targets[0]
        if _is_eager(target):
            return self._eager_trace(seen)
        return _of_graph(seen, target.graph)

    def known(self, tensors):
        """Returns what stands for some eager tensors in the last trace.

        Args:
            tensors: Eager tensors; those that no op made or took are left
                out.
        """
        found = map(self._graph.tensor, keras_internals.with_logits(tensors))
        return [tensor for tensor in found if tensor is not None]

    def _eager_trace(self, seen):
        if len(self.recording.ops) >= _MOST_OPS:
            return None
        count = len(self.recording.ops)
        if self._graph is None or self._graph.num_ops < count:
            self._graph = RanGraph(self.recording)
        graph, known = self._graph, self.known

        def here(place):
            return graph if place is self._eager else place

        trace = Trace(graph, called=seen.called)
        trace.outputs = known(seen.outputs)
        trace.layers = [
            (id(graph) if key == id(self._eager) else key, *rest)
            for key, *rest in seen.layers
        ]
        for call in seen.targets:
            targets = known(call.targets)
            if targets:
                recorded = [(here(g), *rest) for g, *rest in call.recorded]
                trace.targets.append(
                    replace(call, targets=targets, recorded=recorded)
                )
        for call in seen.losses:
            value, y_pred = map(graph.tensor, (call.value, call.y_pred))
            if value is not None:
                trace.losses.append(replace(call, value=value, y_pred=y_pred))
        for read in seen.read:
            tensor = graph.tensor(read.tensor)
            if tensor is not None:
                trace.read.append(replace(read, tensor=tensor))
        return trace


def _of_graph(seen, graph):
    """The part of what was seen that lies in one graph."""

    def is_here(tensor):
        return (
            isinstance(tensor, tf.Tensor)
            and not _is_eager(tensor)
            and tensor.graph is graph
        )

    return Trace(
        graph,
        targets=[c for c in seen.targets if all(map(is_here, c.targets))],
        losses=[c for c in seen.losses if is_here(c.value)],
        layers=seen.layers,
        called=seen.called,
        outputs=[t for t in seen.outputs if is_here(t)],
    )


def _is_eager(tensor):
    return hasattr(tensor, "numpy")
