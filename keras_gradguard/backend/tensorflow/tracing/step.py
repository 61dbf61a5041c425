"""Traces one training step in a scratch graph, and watches it.

Nothing runs: no weight, optimizer, metric or random state changes.
"""

import contextlib
import functools
import inspect

import keras
import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.batches import tensors_of
from keras_gradguard.backend.tensorflow.internals.eager import (
    functions_run_eagerly,
)
from keras_gradguard.backend.tensorflow.internals.functions import Functions
from keras_gradguard.backend.tensorflow.internals.graphs import new_graph
from keras_gradguard.backend.tensorflow.internals.patch import replaced
from keras_gradguard.backend.tensorflow.internals.randomness import (
    python_numbers_kept,
    random_state_kept,
)
from keras_gradguard.backend.tensorflow.internals.variables import (
    made_inside,
    variable_inside,
)
from keras_gradguard.backend.tensorflow.tracing.loss_terms import name_losses
from keras_gradguard.backend.tensorflow.tracing.observer import Observer
from keras_gradguard.backend.tensorflow.tracing.recorder import LiveRecorder
from keras_gradguard.backend.tensorflow.tracing.restore import (
    applied_nowhere,
    attributes_kept,
    examining,
    state_restored,
)
from keras_gradguard.backend.tensorflow.tracing.seen import Seen, SeenTape
from keras_gradguard.model.layers import (
    accepts_training,
    is_default_step,
    losses_kept,
    runs_eagerly,
)
from keras_gradguard.source.frames import (
    is_own_fault,
    is_users,
    pass_over,
)

# It runs where the user's code makes a variable.
pass_over(variable_inside)


@contextlib.contextmanager
def converted_calls(callables):
    """Converts Python control flow on tensors while the block runs.

    Args:
        callables: Keras losses and layers; those whose code is not the
            user's, or cannot be converted, stay as they are.
    """
    with contextlib.ExitStack() as stack:
        for item in callables:
            name = "fn" if inspect.isfunction(vars(item).get("fn")) else "call"
            converted = _converted(getattr(item, name))
            if converted is not None:
                stack.enter_context(replaced(item, name, converted))
        yield


def _converted(function):
    code = getattr(function, "__code__", None)
    if code is None or not is_users(code.co_filename):
        return None
    return tf.function(function, autograph=True)


def trace_step(model, data, converted=()):
    """Traces a model's training step on placeholders of a batch.

    Args:
        model: A compiled Keras model.
        data: The batch as `train_step` gets it: tensors or `TensorSpec`s.
        converted: Losses and layers whose Python control flow on tensors
            AutoGraph is to convert, to see behind an eager `if`.

    Returns:
        A `Seen`.
    """
    graph = _scratch_graph("gradguard_trace")
    trace = Seen(graph)
    with (
        losses_kept(model),
        attributes_kept(model),
        python_numbers_kept(),
        examining(),
    ):
        with graph.as_default(), made_inside():
            batch = keras.tree.map_structure(_placeholder, data)
            trace.batch = tensors_of(batch)
            step, apart = run_forward, contextlib.nullcontext()
            if not is_default_step(model):
                step, trace.functions = _own_step, Functions()
                apart = trace.functions.apart(is_watching=False)
            try:
                with (
                    applied_nowhere(model),
                    converted_calls(converted),
                    apart,
                    Observer(trace, functions=trace.functions).looking(),
                ):
                    step(model, batch, trace)
            except Exception as error:
                if is_own_fault(error):
                    raise
                trace.error = error
    _enter(trace)
    name_losses(model, trace)
    return trace


def trace_loss(loss, y_true, y_pred):
    """Traces one call of a loss on placeholders.

    Args:
        loss: A `keras.losses.Loss`.
        y_true: Targets: tensors, or a nest of them.
        y_pred: Predictions: tensors, or a nest of them.

    Returns:
        A `Seen`; its `batch` and its `outputs` are the prediction.
    """
    graph = _scratch_graph("gradguard_loss")
    trace = Seen(graph)
    with python_numbers_kept(), examining():
        with graph.as_default(), made_inside():
            y_true, y_pred = keras.tree.map_structure(
                _placeholder, (y_true, y_pred)
            )
            trace.batch = trace.outputs = tensors_of(y_pred)
            try:
                with Observer(trace).looking():
                    value = loss(y_true, y_pred)
                trace.targets.append(SeenTape(tensors_of(value), [], []))
            except Exception as error:
                if is_own_fault(error):
                    raise
                trace.error = error
    return trace


def _scratch_graph(name):
    # The trace itself must not run in an init_scope: no tape records there.
    with tf.init_scope():
        return new_graph(name)


def run_forward(model, batch, trace):
    """Runs the forward pass of Keras' own training step.

    Args:
        model: A compiled Keras model.
        batch: The batch as `train_step` gets it.
        trace: The `Seen` that gets the outputs and the loss.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    known = {"training": True} if accepts_training(model) else {}
    y_pred = model(x, **known)
    trace.outputs = tensors_of(y_pred)
    arguments = {"x": x, "y": y, "y_pred": y_pred}
    arguments["sample_weight"] = sample_weight
    if "training" in inspect.signature(model.compute_loss).parameters:
        arguments["training"] = True
    loss = model.compute_loss(**arguments)
    sources = list(model.trainable_variables)
    trace.targets.append(SeenTape([loss], sources, []))


def _own_step(model, batch, trace):
    del trace
    model.train_step(batch)


def _enter(trace):
    """Goes into the function that takes the whole step, if one does."""
    graphs = {t.graph for call in trace.targets for t in call.targets}
    if len(graphs) != 1 or trace.graph in graphs:
        return
    (trace.graph,) = graphs
    outer = set(map(id, trace.batch))
    given = len(trace.graph.inputs) - len(trace.graph.captures)
    trace.batch = [
        *trace.graph.inputs[:given],
        *(inner for known, inner in trace.graph.captures if id(known) in outer),
    ]


def _placeholder(value):
    if value is None or not hasattr(value, "shape"):
        return value
    if isinstance(value, (tf.RaggedTensor, tf.SparseTensor)):
        value = tf.type_spec_from_value(value)
    if isinstance(value, tf.TypeSpec) and not isinstance(value, tf.TensorSpec):
        flat = [
            tf.compat.v1.placeholder(spec.dtype, spec.shape)
            for spec in tf.nest.flatten(value, expand_composites=True)
        ]
        return tf.nest.pack_sequence_as(value, flat, expand_composites=True)
    return tf.compat.v1.placeholder(value.dtype, value.shape)


def losses_of(model, batch):
    """Runs a training step outside the training, for its losses alone.

    Nothing is recorded op by op: that takes far more time.

    Args:
        model: A compiled Keras model; it is left as it was.
        batch: The batch as `train_step` gets it, tensors.

    Returns:
        The `SeenLoss`es of the step, up to where it fails.
    """
    seen = Seen(None)
    is_plain = is_default_step(model)
    with (
        state_restored(model, with_optimizers=not is_plain),
        applied_nowhere(model),
        functions_run_eagerly(),
        Observer(seen, lambda: (None, 0)).looking(),
    ):
        try:
            if is_plain:
                run_forward(model, batch, seen)
            else:
                model.train_step(batch)
        except Exception as error:
            if is_own_fault(error):
                raise
            seen.error = error
    name_losses(model, seen)
    return seen.losses


def rerun_step(model, data, variables, may_fail=False):
    """Runs an eager step outside the training, and returns what it shows.

    Args:
        model: A compiled Keras model; it is left as it was.
        data: The batch as `train_step` gets it.
        variables: Those whose gradients are asked about.
        may_fail: Whether a step that fails is to be shown up to there.

    Returns:
        A `Trace` of the ops that ran, or `None` if the step does not run
        eagerly here, or fails.
    """
    leaves = tensors_of(data)
    if not runs_eagerly(model) or not leaves or not _are_eager(leaves):
        return None
    with state_restored(model), applied_nowhere(model):
        run = functools.partial(model.train_step, data)
        recorder = _seen(model, run, may_fail)
    return recorder and recorder.trace_of(variables)


def rerun_loss(loss, y_true, y_pred):
    """Runs a loss and its gradient, and returns what they show.

    Args:
        loss: A `keras.losses.Loss`.
        y_true: Its targets: tensors, or a nest of them.
        y_pred: Its predictions, alike.

    Returns:
        A `Trace` of the ops that ran, its `outputs` the prediction, or
        `None` if the loss does not run eagerly here, or fails.
    """
    leaves = tensors_of((y_true, y_pred))
    if not leaves or not _are_eager(leaves):
        return None
    made = []

    def run():
        # What a loss reads out is known by the op that made it.
        prediction = keras.tree.map_structure(tf.identity, y_pred)
        made.extend(tensors_of(prediction))
        floats = [tensor for tensor in made if tensor.dtype.is_floating]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(floats)
            value = loss(y_true, prediction)
        tape.gradient(value, floats)

    with random_state_kept(), examining():
        recorder = _seen(None, run)
    trace = recorder and recorder.trace_of(())
    if trace is not None:
        trace.outputs = recorder.known(made)
    return trace


def _are_eager(tensors):
    eager = all(hasattr(tensor, "numpy") for tensor in tensors)
    return eager and tf.executing_eagerly()


def _seen(model, run, may_fail=False):
    """Returns the `LiveRecorder` of what runs, `None` if it may not fail."""
    barrier, has_failed = _LateBarrier(), False
    recorder = LiveRecorder(model, barrier, _nothing, _nothing)
    recorder.open()
    try:
        run()
    except Exception as error:
        if is_own_fault(error):
            raise
        # The user's code may raise anything; its trace has failed already,
        # and that is what is reported then.
        has_failed = True
    finally:
        recorder.close()
    if barrier.fault is not None:
        raise barrier.fault
    return None if has_failed and not may_fail else recorder


class _LateBarrier:
    """Keeps the first fault until the look is over, see `Observer.looking`.

    Whoever asks has a barrier of its own.

    Attributes:
        fault: The fault, or `None`.
    """

    def __init__(self):
        self.fault = None

    @property
    def is_open(self):
        """Whether there was none so far."""
        return self.fault is None

    @contextlib.contextmanager
    def guarded(self):
        """Keeps a fault of the code in the block."""
        try:
            yield
        except Exception as fault:  # noqa: BLE001
            self.fault = self.fault or fault


def _nothing(*_):
    """Neither functions nor optimizers matter here."""
