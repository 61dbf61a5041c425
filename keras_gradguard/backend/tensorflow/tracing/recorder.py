"""Runs one training step op by op, and keeps what every op did.

Functions, branches and loops run as plain eager ops, so that each op has its
values and the user's line, wherever the code stands.
"""

import contextlib
import threading

import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.batches import (
    flat_batch,
    tensors_of,
)
from keras_gradguard.backend.tensorflow.internals.eager import (
    RECORD_OPERATION,
    every_op_seen,
    functions_run_eagerly,
)
from keras_gradguard.backend.tensorflow.internals.graphs import tape_is_active
from keras_gradguard.backend.tensorflow.internals.python_hooks import (
    no_calls_seen,
)
from keras_gradguard.backend.tensorflow.internals.randomness import (
    random_state_kept,
)
from keras_gradguard.backend.tensorflow.tracing.gradients import (
    Ran,
    with_finite,
)
from keras_gradguard.backend.tensorflow.tracing.graphs import (
    RecordedGraph,
    trace_of_graph,
    trace_of_ops,
)
from keras_gradguard.backend.tensorflow.tracing.loss_terms import name_losses
from keras_gradguard.backend.tensorflow.tracing.observer import (
    LiveObserver,
    Observer,
    frames_here,
)
from keras_gradguard.backend.tensorflow.tracing.restore import (
    state_restored,
    updates_caught,
)
from keras_gradguard.backend.tensorflow.tracing.seen import Seen
from keras_gradguard.graph.trace import nothing_seen
from keras_gradguard.model.losses import with_logits
from keras_gradguard.model.optimizers import optimizers_of
from keras_gradguard.source.frames import is_own_fault, user_place


class Recording:
    """What one step did.

    Args:
        batch: The batch as the step got it.
        here: What stands for its graph in what an observer has seen.
        instead: `(types, value)` to run it with a number in place of what
            some ops give that is not finite: number -> type of these, and
            that number.

    Attributes:
        graph: The `RecordedGraph` of its ops.
        seen: What the observer has seen, a `Seen`.
        applied: `(variables, gradients)` of each `optimizer.apply`.
        callers: The `Place` that called each.
    """

    def __init__(self, batch=None, here=None, instead=None):
        self.graph = RecordedGraph()
        self.seen = Seen(None)
        self.applied = []
        self.callers = []
        self._batch = batch
        self._here = here
        self._instead = instead
        self._is_busy = False

    @property
    def num_ops(self):
        """How many ops have run so far."""
        return len(self.graph.ops)

    def maker(self, native):
        """Returns the `Op` that made a tensor, `None` for what came in."""
        tensor = self.graph.tensor(native)
        return None if tensor is None or tensor.op.number < 0 else tensor.op

    def latest(self):
        """Returns what the latest op has given, eager tensors."""
        return self.graph.ops[-1].native.outputs

    def add_op(self, op_type, inputs, attributes, outputs, backward=None):
        """Takes in one op that has just run."""
        if self._is_busy:
            return
        if self._instead is not None and backward is None:
            types, value = self._instead
            if types.get(self.num_ops) == op_type:
                self._is_busy = True
                # TensorFlow goes on with what it finds in this list.
                outputs[:] = [with_finite(t, value) for t in outputs]
                self._is_busy = False
        ran = Ran(
            op_type, attributes or (), tuple(inputs), tuple(outputs), backward
        )
        self.graph.add_op(ran, tape_is_active(), frames_here())

    def now(self):
        """Returns `(None, number of the next op)`, see `Observer`."""
        return None, self.num_ops

    def trace(self):
        """Returns all that is known of the step, a `Trace`."""
        parts = [
            (name, self.graph.known(tensor))
            for name, tensor in flat_batch(self._batch)
        ]
        trace = trace_of_ops(self.seen, self.graph, self._here)
        trace.batch = parts
        trace.applied, trace.callers = self.applied, self.callers
        return trace


def record_step(model, batch, weights=(), instead=None):
    """Runs a training step of a model outside the training.

    Args:
        model: A compiled Keras model; it is left as it was.
        batch: The batch as `train_step` gets it, tensors.
        weights: `(variable, value)` pairs to run it with.
        instead: See `Recording`.

    Returns:
        A `Trace`; its `error` is the exception that ended the step, or
        `None`.
    """
    recording = Recording(batch, instead=instead)

    def catch(optimizer, variables, gradients):
        recording.applied.append((variables, gradients))
        recording.callers.append(user_place(frames_here()))

    with state_restored(model), updates_caught(optimizers_of(model), catch):
        for variable, value in weights:
            variable.assign(value)
        _run(recording, lambda: model.train_step(batch))
    name_losses(model, recording.seen)
    return recording.trace()


def record_loss(loss, y_true, y_pred, instead=None):
    """Runs one loss and its gradient.

    Args:
        loss: A `keras.losses.Loss`.
        y_true: Targets, tensors.
        y_pred: Predictions, tensors.
        instead: See `Recording`.

    Returns:
        A `Trace`; its one tape call asks for the predictions.
    """
    recording = Recording((y_true, y_pred), instead=instead)
    sources = [t for t in tensors_of(y_pred) if t.dtype.is_floating]

    def run():
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            value = loss(y_true, y_pred)
        recording.applied.append((sources, tape.gradient(value, sources)))

    with random_state_kept():
        _run(recording, run)
    return recording.trace()


def _run(recording, step):
    try:
        with (
            functions_run_eagerly(),
            every_op_seen(recording.add_op),
            _EagerObserver(recording).looking(),
        ):
            step()
    except Exception as error:
        if is_own_fault(error):
            raise
        recording.seen.error = error


class _EagerObserver(Observer):
    """Sees custom gradients too: those tell the tape of themselves."""

    def __init__(self, recording):
        super().__init__(recording.seen, recording.now)
        self._recording = recording
        self._on_call[RECORD_OPERATION] = self._custom

    def _custom(self, frame):
        here = frame.f_locals
        if not tf.executing_eagerly():
            return
        self._recording.add_op(
            here["op_type"],
            here["input_tensors"],
            (),
            here["output_tensors"],
            here["backward_function"],
        )


def _is_here(tensor):
    """Whether the code that runs now may read a tensor."""
    if tf.executing_eagerly() or hasattr(tensor, "numpy"):
        return tf.executing_eagerly() and hasattr(tensor, "numpy")
    return tensor.graph is tf.compat.v1.get_default_graph()


# A longer step is not followed op by op: its values take too much memory.
_MOST_OPS = 50_000


class LiveRecorder:
    """Sees the steps of a custom loop, as graphs or as eager ops.

    Args:
        model: The model that is watched.
        barrier: See `LiveObserver`.
        note_function: See `LiveObserver`.
        note_optimizer: See `LiveObserver`.
    """

    def __init__(self, model, barrier, note_function, note_optimizer):
        self._model = model
        self._seen = (note_function, note_optimizer)
        self._stack = contextlib.ExitStack()
        self._barrier = barrier
        self._home, self._thread = threading.get_ident(), None
        self._is_paused = False
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
        self._eager = object()
        self.recording = Recording(here=self._eager)
        self._is_paused = False
        observer = LiveObserver(
            self.recording, self._eager, self._model, self._barrier, *self._seen
        )
        self._thread = self._home
        try:
            self._stack.enter_context(every_op_seen(self._see))
            self._stack.enter_context(observer.looking())
        except BaseException:
            self.close()
            raise

    def close(self):
        """Looks no longer; what has been seen is kept."""
        if self._thread == threading.get_ident():
            self._thread = None
            self._stack.close()

    def forget(self):
        """Lets go of what has been seen, which may be much."""
        self.recording = None

    @contextlib.contextmanager
    def paused(self):
        """Sees nothing while the block runs: it is not the user's."""
        before, self._is_paused = self._is_paused, True
        is_here = self.is_open and self._thread == threading.get_ident()
        try:
            with no_calls_seen() if is_here else contextlib.nullcontext():
                yield
        finally:
            self._is_paused = before

    def _see(self, *ran):
        recording = self.recording
        if recording is None or self._is_paused:
            return
        if recording.num_ops < _MOST_OPS and self._barrier.is_open:
            with self._barrier.guarded():
                recording.add_op(*ran)

    def trace_of(self, variables):
        """Returns what is known of how some variables get their gradients.

        Args:
            variables: Keras variables; a tape that was asked for one of them
                is preferred, the latest one.

        Returns:
            A `Trace`, or `None` if no tape was seen.
        """
        if self.recording is None or not self._barrier.is_open:
            return None
        seen = self.recording.seen
        calls = [call for call in seen.targets if call.targets]
        wanted = {id(v) for v in variables}
        wanted |= {id(getattr(v, "value", v)) for v in variables}
        about = [c for c in calls if any(id(s) in wanted for s in c.sources)]
        if not (about or calls):
            return None
        target = (about or calls)[-1].targets[0]
        if not hasattr(target, "numpy"):
            return trace_of_graph(seen, target.graph)
        if self.recording.num_ops >= _MOST_OPS:
            return None
        return trace_of_ops(seen, self.recording.graph, self._eager)

    def losses_here(self, variables):
        """Returns the losses whose gradients an update is made of, tensors.

        Args:
            variables: Its Keras variables.

        Returns:
            What the tapes of this step were asked of for some of them, as
            far as it can be read here: eager tensors in an eager step, those
            of its own graph in a compiled one.
        """
        if self.recording is None:
            return []
        wanted = {id(v) for v in variables}
        wanted |= {id(getattr(v, "value", v)) for v in variables}
        return [
            target
            for call in self.recording.seen.targets
            if not call.seeds and any(id(s) in wanted for s in call.sources)
            for target in call.targets
            if target.dtype.is_floating and _is_here(target)
        ]

    def seen(self, variables):
        """Returns `trace_of`, and that of `nothing_seen` for `None`."""
        return self.trace_of(variables) or nothing_seen()

    def recorded(self):
        """Returns the eager step, see `Recording`; `None` without any op."""
        if self.recording is None or not self.recording.num_ops:
            return None
        return self.recording.trace()

    def known(self, tensors):
        """Returns what stands for some eager tensors in the trace.

        Args:
            tensors: Eager tensors; those that no op made or took are left
                out.
        """
        found = map(self.recording.graph.tensor, with_logits(tensors))
        return [tensor for tensor in found if tensor is not None]
