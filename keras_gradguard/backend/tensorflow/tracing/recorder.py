"""Step 4: run one training step op by op, and keep what every op did.

Functions, branches and loops run as plain eager ops, so that each op has its
values and the user's line, wherever the code stands.
"""

import collections
import contextlib
import os
import sys
import threading
from dataclasses import replace

import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.batches import (
    flat_batch,
    tensors_of,
)
from keras_gradguard.backend.tensorflow.internals.eager import (
    RECORD_OPERATION,
    every_op_seen,
    functions_run_eagerly,
    no_tape,
)
from keras_gradguard.backend.tensorflow.internals.graphs import (
    stack_here,
    tape_is_active,
)
from keras_gradguard.backend.tensorflow.internals.patch import replaced
from keras_gradguard.backend.tensorflow.internals.randomness import (
    random_state_kept,
)
from keras_gradguard.backend.tensorflow.tracing.gradients import pulled
from keras_gradguard.backend.tensorflow.tracing.loss_terms import name_losses
from keras_gradguard.backend.tensorflow.tracing.observer import (
    LiveObserver,
    Observer,
)
from keras_gradguard.backend.tensorflow.tracing.restore import (
    applied_nowhere,
    state_restored,
)
from keras_gradguard.backend.tensorflow.tracing.step import run_forward
from keras_gradguard.graph.ops import Frame, RanOp, carries_gradient
from keras_gradguard.graph.trace import Trace
from keras_gradguard.model.layers import is_default_step
from keras_gradguard.model.losses import with_logits
from keras_gradguard.model.optimizers import optimizers_of, variables_of
from keras_gradguard.source.frames import PACKAGE, user_place


class RanTensor:
    """A tensor of a recorded step.

    Args:
        op: The `RanNode` that made it.
        value_index: Its place among the outputs.
        tensor: The eager tensor.
    """

    def __init__(self, op, value_index, tensor):
        self.op = op
        self.graph = op.graph
        self.value_index = value_index
        self.name = f"{op.name}:{value_index}"
        self.dtype = tensor.dtype
        self.shape = tensor.shape
        self.users = []

    def consumers(self):
        """Returns the ops that this tensor went into."""
        return self.users


class RanNode:
    """An op of a recorded step, or what stands for a value from outside.

    Args:
        graph: The `RanGraph`.
        name: A unique name.
        outputs: The tensors that came out.
        inputs: `RanTensor`s that went in.
        ran: The `RanOp`, `None` for a value from outside.
    """

    def __init__(self, graph, name, outputs, inputs=(), ran=None):
        self.graph = graph
        self.name = name
        self.type = "Placeholder" if ran is None else ran.type
        self.inputs = list(inputs)
        self.traceback = () if ran is None else ran.traceback
        self.outputs = [RanTensor(self, n, t) for n, t in enumerate(outputs)]
        self._ran = ran
        for tensor in self.inputs:
            tensor.users.append(self)

    def get_attr(self, name):
        """Returns the name of an op's own gradient; it has no other one."""
        if name == "_gradient_op_type" and self._has_own_gradient():
            return self.type.encode()
        raise ValueError(f"{self.type} has no attribute {name}")

    def _has_own_gradient(self):
        return self._ran is not None and self._ran.backward is not None

    def bodies(self):
        """Returns the graph of a `tf.function`, see `internals.bodies`."""
        body = None if self._ran is None else self._ran.body
        if body is None or len(body.inputs) != len(self.inputs):
            return None
        if len(body.outputs) < len(self.outputs):
            return None
        return "call", [body]

    def passes(self, position):
        """Returns which inputs get a gradient, see `edges.probe`."""
        closed = (False,) * len(self.inputs)
        if not carries_gradient(self.outputs[position].dtype):
            return closed, None
        if self._ran.type.startswith("__"):
            # The body of a function that is not at hand.
            return (True,) * len(self.inputs), None
        sides = (self.inputs, self.outputs)
        key = (self.type, position, *(tuple(t.dtype for t in s) for s in sides))
        if self._has_own_gradient():
            key = (self.name, position)
        if key not in self.graph.answers:
            self.graph.answers[key] = self._ask(position)
        return self.graph.answers[key]

    def _ask(self, position):
        incoming = [
            tf.ones_like(tensor) if number == position else None
            for number, tensor in enumerate(self._ran.outputs)
        ]
        try:
            with no_tape():
                outgoing = list(pulled(self._ran, incoming))
        except LookupError as error:
            return (False,) * len(self.inputs), str(error)
        except Exception:  # noqa: BLE001
            # Not a cut that can be proved, so none that may be reported.
            return (True,) * len(self.inputs), None
        outgoing += [None] * (len(self.inputs) - len(outgoing))
        return tuple(g is not None for g in outgoing[: len(self.inputs)]), None


class RanGraph:
    """The ops of a recording as a graph.

    Args:
        recording: The `Recording`; what it records later is not seen.

    Attributes:
        captures: `(outer, inner)` pairs of the values from outside.
        answers: What ops have told of their gradients.
        num_ops: How many ops the recording had.
    """

    outer_graph = None

    def __init__(self, recording):
        self.answers = {}
        self._known = {}
        self._outside = collections.OrderedDict()
        self._nodes = []
        self.num_ops = len(recording.ops)
        for ran in recording.ops:
            inputs = [self._tensor(t) for t in ran.inputs]
            name = f"{ran.type}_{ran.number}"
            node = RanNode(self, name, ran.outputs, inputs, ran)
            self._nodes.append(node)
            for tensor, own in zip(ran.outputs, node.outputs, strict=True):
                self._known[id(tensor)] = own
        self.captures = list(self._outside.values())

    def get_operations(self):
        """Returns all ops in order, those for outer values last."""
        return [*self._nodes, *(inner.op for _, inner in self.captures)]

    def tensor(self, tensor):
        """Returns the `RanTensor` of an eager tensor, `None` if unknown."""
        return self._known.get(id(tensor))

    def _tensor(self, tensor):
        if id(tensor) not in self._known:
            name = f"outside_{len(self._outside)}"
            inner = RanNode(self, name, [tensor]).outputs[0]
            self._known[id(tensor)] = inner
            self._outside[id(tensor)] = (tensor, inner)
        return self._known[id(tensor)]


class Recording:
    """What one step did.

    Attributes:
        ops: The `RanOp`s in their order.
        trace: The `Trace` of the step: layers, losses, tape calls.
        applied: `(variables, gradients)` of each `optimizer.apply`.
        callers: The `Place` that called each.
        batch: The batch as the step got it.
    """

    def __init__(self, batch=None):
        self.ops = []
        self.trace = Trace(None)
        self.applied = []
        self.callers = []
        self.batch = batch
        self._makers = {}

    def maker(self, tensor):
        """Returns the op that made a tensor, `None` for what came in."""
        return self._makers.get(id(tensor))

    def layer_of(self, op):
        """Returns the path of the layer that an op ran in, or `None`."""
        return self.trace.layer_of(op, op.number)

    def see(self, op_type, inputs, attributes, outputs, backward=None):
        """Takes in one op that has just run."""
        op = RanOp(
            len(self.ops),
            op_type,
            attributes or (),
            tuple(inputs),
            tuple(outputs),
            _stack(),
            tape_is_active(),
            backward,
        )
        self.ops.append(op)
        for tensor in op.outputs:
            self._makers[id(tensor)] = op

    def now(self):
        """Returns `(None, number of the next op)`, see `Observer`."""
        return None, len(self.ops)


def record_step(model, batch, weights=()):
    """Runs a training step of a model outside the training.

    Args:
        model: A compiled Keras model; it is left as it was.
        batch: The batch as `train_step` gets it, tensors.
        weights: `(variable, value)` pairs to run it with.

    Returns:
        A `Recording`; its `trace.error` is the exception that ended the
        step, or `None`.
    """
    recording = Recording(batch)
    with state_restored(model), contextlib.ExitStack() as stack:
        for variable, value in weights:
            variable.assign(value)

        for optimizer in optimizers_of(model):
            apply = _instead_of_apply(optimizer, recording)
            stack.enter_context(replaced(optimizer, "apply", apply))
        _run(recording, lambda: model.train_step(batch))
    name_losses(model, recording.trace)
    return recording


def _instead_of_apply(optimizer, recording):
    def apply(grads, trainable_variables=None):
        variables = trainable_variables
        if variables is None:
            variables = variables_of(optimizer)
        recording.applied.append((list(variables), list(grads)))
        recording.callers.append(user_place(_stack()))

    return apply


def losses_of(model, batch):
    """Runs a training step outside the training, for its losses alone.

    Nothing is recorded op by op: that takes far more time.

    Args:
        model: A compiled Keras model; it is left as it was.
        batch: The batch as `train_step` gets it, tensors.

    Returns:
        The `LossCall`s of the step, up to where it fails.
    """
    trace = Trace(None)
    is_plain = is_default_step(model)
    with (
        state_restored(model, with_optimizers=not is_plain),
        applied_nowhere(model),
        functions_run_eagerly(),
        Observer(trace, lambda: (None, 0)),
    ):
        try:
            if is_plain:
                run_forward(model, batch, trace)
            else:
                model.train_step(batch)
        except Exception as error:  # noqa: BLE001
            trace.error = error
    name_losses(model, trace)
    return trace.losses


def record_loss(loss, y_true, y_pred):
    """Runs one loss and its gradient.

    Args:
        loss: A `keras.losses.Loss`.
        y_true: Targets, tensors.
        y_pred: Predictions, tensors.

    Returns:
        A `Recording`; its one tape call asks for the predictions.
    """
    recording = Recording((y_true, y_pred))
    sources = [t for t in tensors_of(y_pred) if t.dtype.is_floating]

    def run():
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            value = loss(y_true, y_pred)
        recording.applied.append((sources, tape.gradient(value, sources)))

    with random_state_kept():
        _run(recording, run)
    return recording


def _run(recording, step):
    trace = recording.trace
    trace.batch = [tensor for _, tensor in flat_batch(recording.batch)]
    try:
        with (
            functions_run_eagerly(),
            every_op_seen(recording.see),
            _EagerObserver(recording),
        ):
            step()
    except Exception as error:  # noqa: BLE001
        trace.error = error


class _EagerObserver(Observer):
    """Sees custom gradients too: those tell the tape of themselves."""

    def __init__(self, recording):
        super().__init__(recording.trace, recording.now)
        self._recording = recording
        self._on_call[RECORD_OPERATION] = self._custom

    def _custom(self, frame):
        here = frame.f_locals
        if not tf.executing_eagerly():
            return
        self._recording.see(
            here["op_type"],
            here["input_tensors"],
            (),
            here["output_tensors"],
            here["backward_function"],
        )


def _stack():
    """The frames of the code that runs an op, the outermost first."""
    stack = stack_here()
    frames = [Frame(f.filename, f.lineno, f.name) for f in stack]
    while frames and frames[-1].filename.startswith(PACKAGE + os.sep):
        frames.pop()
    return tuple(frames)


# A longer step is not followed op by op: its values take too much memory.
_MOST_OPS = 50_000


class LiveRecorder:
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
        self._stack.enter_context(every_op_seen(self._see))
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
        found = map(self._graph.tensor, with_logits(tensors))
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
