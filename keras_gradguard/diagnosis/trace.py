"""Step 4c: trace one training step in a scratch graph, and watch it.

Nothing runs: no weight, optimizer, metric or random state changes.
"""

import contextlib
import inspect
import threading

import keras
import tensorflow as tf

from keras_gradguard.diagnosis import internals, keras_internals
from keras_gradguard.diagnosis.addends import name_losses
from keras_gradguard.diagnosis.attributes import attributes_kept
from keras_gradguard.diagnosis.autograph import converted_calls
from keras_gradguard.diagnosis.functions import Functions
from keras_gradguard.diagnosis.observer import Observer, tensors_of
from keras_gradguard.diagnosis.randomness import python_numbers_kept
from keras_gradguard.diagnosis.seen import TapeCall, Trace
from keras_gradguard.diagnosis.variable_internals import made_inside
from keras_gradguard.patch import replaced


def trace_step(model, data, converted=()):
    """Traces a model's training step on placeholders of a batch.

    Args:
        model: A compiled Keras model.
        data: The batch as `train_step` gets it: tensors or `TensorSpec`s.
        converted: Losses and layers whose Python control flow on tensors
            AutoGraph is to convert, to see behind an eager `if`.

    Returns:
        A `Trace`.
    """
    graph = _scratch_graph("gradguard_trace")
    trace = Trace(graph)
    with (
        keras_internals.losses_kept(model),
        attributes_kept(model),
        python_numbers_kept(),
        examining(),
    ):
        with graph.as_default(), made_inside():
            batch = keras.tree.map_structure(_placeholder, data)
            trace.batch = tensors_of(batch)
            step, apart = run_forward, contextlib.nullcontext()
            if not keras_internals.is_default_step(model):
                step, trace.functions = _own_step, Functions()
                apart = trace.functions.apart(is_watching=False)
            try:
                with (
                    applied_nowhere(model),
                    converted_calls(converted),
                    apart,
                    Observer(trace, functions=trace.functions),
                ):
                    step(model, batch, trace)
            except Exception as error:  # noqa: BLE001
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
        A `Trace`; its `batch` and its `outputs` are the prediction.
    """
    graph = _scratch_graph("gradguard_loss")
    trace = Trace(graph)
    with python_numbers_kept(), examining():
        with graph.as_default(), made_inside():
            y_true, y_pred = keras.tree.map_structure(
                _placeholder, (y_true, y_pred)
            )
            trace.batch = trace.outputs = tensors_of(y_pred)
            try:
                with Observer(trace):
                    value = loss(y_true, y_pred)
                trace.targets.append(TapeCall(tensors_of(value), [], [], ()))
            except Exception as error:  # noqa: BLE001
                trace.error = error
    return trace


def _scratch_graph(name):
    # The trace itself must not run in an init_scope: no tape records there.
    with tf.init_scope():
        return internals.new_graph(name)


_thread = threading.local()


def is_examining():
    """Returns whether a scratch trace runs in this thread."""
    return getattr(_thread, "examining", False)


@contextlib.contextmanager
def examining():
    """Lets no `GradGuardLoss` check itself while the block runs."""
    before = is_examining()
    _thread.examining = True
    try:
        yield
    finally:
        _thread.examining = before


def run_forward(model, batch, trace):
    """Runs the forward pass of Keras' own training step.

    Args:
        model: A compiled Keras model.
        batch: The batch as `train_step` gets it.
        trace: The `Trace` that gets the outputs and the loss.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    known = (
        {"training": True} if keras_internals.accepts_training(model) else {}
    )
    y_pred = model(x, **known)
    trace.outputs = tensors_of(y_pred)
    arguments = {"x": x, "y": y, "y_pred": y_pred}
    arguments["sample_weight"] = sample_weight
    if "training" in inspect.signature(model.compute_loss).parameters:
        arguments["training"] = True
    loss = model.compute_loss(**arguments)
    sources = list(model.trainable_variables)
    trace.targets.append(TapeCall([loss], sources, [], ()))


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


def optimizers_of(model):
    """Returns the optimizers that a model holds, the outermost of each.

    Args:
        model: See `named_optimizers`.
    """
    return [optimizer for _, optimizer in named_optimizers(model)]


def named_optimizers(model):
    """Returns a model's optimizers and the attributes that hold them.

    Args:
        model: A Keras model, or a layer that is a trainer as well; its own
            attributes are searched and those of the models and layers inside
            it, also lists and dicts of them.

    Returns:
        `(name, optimizer)` pairs, those of the outer model first.
    """
    # Each `fit` asks, and a layer has some fifty attributes.
    kinds = (dict, list, tuple, keras.optimizers.Optimizer)
    queue = []
    for part in keras_internals.layers_of(model):
        prefix = "" if part is model else f"{part.name}/"
        values = vars(part).items()
        queue += [(prefix + n, v) for n, v in values if isinstance(v, kinds)]
    found = {}
    for name, value in queue:
        if isinstance(value, keras.optimizers.Optimizer):
            found.setdefault(id(value), (name, value))
            continue
        is_dict = isinstance(value, dict)
        items = value.items() if is_dict else enumerate(value)
        queue += [(f"{name}/{k}", v) for k, v in items if isinstance(v, kinds)]
    return list(found.values())


@contextlib.contextmanager
def applied_nowhere(model):
    """Lets no optimizer of a model change a weight.

    Args:
        model: A Keras model.
    """
    with contextlib.ExitStack() as stack:
        for optimizer in optimizers_of(model):
            stack.enter_context(replaced(optimizer, "apply", _nothing))
        yield


@tf.autograph.experimental.do_not_convert
def _nothing(*arguments, **named):
    """Stands in for `optimizer.apply`."""
