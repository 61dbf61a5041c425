"""Names what a new TensorFlow or Keras has changed under us."""

import keras
import pytest
import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.functions import (
    exchanged,
    functions_entered,
    graphs_traced,
    without_traces,
)
from keras_gradguard.backend.tensorflow.internals.graphs import (
    NO_GRADIENTS,
    bodies_of,
    custom_gradient_name,
    function_graph_here,
    handles_of,
    is_within,
    new_graph,
    num_ops,
    tape_is_active,
)
from keras_gradguard.backend.tensorflow.internals.randomness import (
    _GENERATORS,
    seed_variables_kept,
)
from keras_gradguard.backend.tensorflow.tracing.gradients import probe
from keras_gradguard.backend.tensorflow.tracing.observer import Observer
from keras_gradguard.model.layers import (
    accepts_training,
    has_extra_losses,
    is_default_step,
    is_default_sum,
    layers_of,
    trainer_file,
)
from keras_gradguard.model.losses import (
    compiled_losses,
    has_several_losses,
    resolved_loss,
    wrapped_loss,
)
from keras_gradguard.model.optimizers import variables_of
from tests.fitting import X, Y, classifier

pytestmark = pytest.mark.smoke


def graph_of(function):
    """Traces a function of one [4, 3] tensor; returns graph, input, output."""
    graph = new_graph("test")
    with graph.as_default():
        source = tf.compat.v1.placeholder(tf.float32, (4, 3))
        return graph, source, function(source)


def test_function_graph_counts_its_ops():
    """`FuncGraph.version` is the number of ops so far."""
    graph, _, _ = graph_of(lambda x: tf.sin(x) + 1.0)
    assert len(graph.get_operations()) == num_ops(graph)


def test_bodies_keep_their_tracebacks():
    """Bodies of calls, branches and loops are graphs with tracebacks."""

    @tf.function
    def helper(x):
        if tf.reduce_sum(x) > 0:
            x = tf.cos(x)
        for _ in tf.range(3):
            x = tf.sin(x)
        return x

    graph, _, _ = graph_of(helper)
    kinds, queue = {}, [graph]
    while queue:
        for op in queue.pop().get_operations():
            found = bodies_of(op)
            if found:
                kinds[found[0]] = found[1]
                queue += found[1]
    assert {"call", "branch", "while"} == set(kinds)
    sine = [o for o in kinds["while"][1].get_operations() if o.type == "Sin"]
    files = {frame.filename for op in sine for frame in op.traceback}
    assert __file__ in files


def test_gradient_truth_per_op():
    """The gradient functions say what the design says they say."""
    truth = {
        tf.round: [False],
        tf.floor: [False],
        tf.stop_gradient: [False],
        tf.sin: [True],
        tf.sign: [True],
        lambda x: tf.greater(x, 0.5): [False, False],
        lambda x: tf.math.top_k(x).values: [True, True],
    }
    for function, expected in truth.items():
        graph, _, output = graph_of(function)
        before = num_ops(graph)
        passes, error, zeros = probe(output.op, output.value_index)
        assert zeros == ((0,) if function is tf.sign else ())
        assert (expected, None) == (list(passes), error), output.op.type
        assert before == num_ops(graph), "the probe left ops behind"
    _, _, output = graph_of(lambda x: tf.linalg.lu(x[:3, :3])[0])
    assert "Lu" in probe(output.op, 0)[1]


def test_custom_gradient_is_known_by_its_name():
    """`tf.custom_gradient` marks its ops, others have no mark."""

    @tf.custom_gradient
    def own(x):
        return x * 2.0, lambda upstream: None

    _, _, output = graph_of(own)
    assert custom_gradient_name(output.op)
    assert not any(probe(output.op, 0)[0])
    _, _, output = graph_of(tf.sin)
    assert custom_gradient_name(output.op) is None


def test_tape_is_seen():
    """A recording tape shows, and only while it records."""
    assert not tape_is_active()
    with tf.GradientTape() as tape:
        assert tape_is_active()
        with tape.stop_recording():
            assert not tape_is_active()
    assert not tape_is_active()


def test_observer_knows_the_code_of_what_it_watches():
    """Every watched function is still the one that runs."""
    from keras_gradguard.backend.tensorflow.tracing.step import trace_step

    model = classifier("mse", kernel_regularizer="l2")
    trace = trace_step(model, (tf.constant(X), tf.constant(Y)))
    assert trace.error is None
    paths = {path for _, _, _, path in trace.layers}
    assert {"net", "net/hidden", "net/head"} <= paths
    assert ["mse"] == [call.name for call in trace.losses]
    assert 2 == len(trace.extra_losses)
    assert Observer is not None


def test_add_loss_is_seen_with_its_layer():
    """Keras' own call for an activity regulariser is told from a user's."""
    from keras_gradguard.backend.tensorflow.tracing.step import trace_step

    class Adds(keras.layers.Layer):
        def call(self, inputs):
            self.add_loss(tf.reduce_sum(inputs))
            return inputs

    model = classifier("mse", middle=Adds(name="adds"))
    model.layers[0].activity_regularizer = keras.regularizers.L1(0.1)
    trace = trace_step(model, (tf.constant(X), tf.constant(Y)))
    assert trace.error is None
    known = [(call.layer.name, call.is_activity) for call in trace.added]
    assert [("hidden", True), ("adds", False)] == known
    extra = set(map(id, trace.extra_losses))
    assert all(id(t) in extra for call in trace.added for t in call.values)


def test_compiled_losses_are_named():
    """What Keras makes of `loss` has a name for each output, in order."""
    inputs = keras.Input((4,))
    outputs = {name: keras.layers.Dense(3, name=name)(inputs) for name in "ab"}
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    assert compiled_losses(model) is None
    assert has_several_losses(model)
    model.evaluate(X, {"a": Y, "b": Y}, verbose=0)
    assert ("a", "b") == compiled_losses(model)
    assert has_several_losses(model)
    model = classifier("mse")
    assert not has_several_losses(model)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd")
    assert not compiled_losses(model)
    assert not has_several_losses(model)


def test_own_sum_of_losses_is_known():
    """A model's own `compute_loss` or `train_step` is told from Keras'."""

    class Sums(keras.Sequential):
        def compute_loss(self, *arguments, **named):
            return super().compute_loss(*arguments, **named)

    class Steps(keras.Sequential):
        def train_step(self, data):
            return super().train_step(data)

    assert is_default_sum(classifier("mse"))
    assert not is_default_sum(Sums())
    assert not is_default_sum(Steps())


def test_keras_names():
    """What is used of Keras' private names is there."""
    model = classifier("mse")
    model.fit(X, Y, verbose=0)
    assert is_default_step(model)
    assert accepts_training(model)
    assert trainer_file().endswith("trainer.py")
    trained = variables_of(model.optimizer)
    assert 4 == len(trained)
    assert model in layers_of(model)
    assert not has_extra_losses(model)
    assert resolved_loss("mse", Y, Y).name == "mse"
    loss = wrapped_loss(keras.losses.mean_squared_error, "mse")
    assert "mse" == loss.name
    handles = handles_of(model.trainable_variables[0])
    assert 1 == len(handles)


def test_keras_still_says_it():
    """The bare text that our error contains is Keras' own."""
    model = classifier(lambda y_true, y_pred: tf.reduce_mean(tf.round(y_pred)))
    try:
        model.fit(X, Y, verbose=0)
    except ValueError as error:
        assert NO_GRADIENTS in str(error)
    else:
        raise AssertionError("Keras trains without a gradient")


def test_traces_of_a_function():
    """A call changes what `exchanged` takes away, and nothing else."""
    function = tf.function(lambda x: x + 1.0)
    new = dict(vars(function))
    none = without_traces(function)
    assert {name: type(new[name]) for name in none} == {
        name: type(value) for name, value in none.items()
    }
    function(tf.ones(()))
    ((name, graph),) = graphs_traced(function).items()
    assert name.startswith("__inference")
    assert "AddV2" in {op.type for op in graph.get_operations()}
    called = dict(vars(function))
    known = exchanged(function, none)
    assert set(known) - set(new) == {"_concrete_variable_creation_fn"}
    assert vars(function) == new | none
    changed = {n for n in called if called[n] is not new.get(n)}
    assert changed <= set(known)
    assert 1 == len(known["_function_cache"])
    assert exchanged(function, known) == none
    assert vars(function) == called


def test_entries_of_a_function():
    """Both ways in are seen from inside, the innermost function first."""

    def here(x):
        found.append(functions_entered(None))
        return x

    found = []
    inner = tf.function(here)
    outer = tf.function(lambda x: inner(x))
    outer(tf.ones(()))
    inner.get_concrete_function(tf.ones((2,)))
    assert [[inner, outer], [inner]] == found


def test_graph_of_a_function():
    """Branches lie within the graph of their function."""
    seen = []

    @tf.function
    def function(x):
        graph = tf.compat.v1.get_default_graph()

        def branch():
            assert function_graph_here() is graph
            seen.append(is_within(graph))
            return x

        return tf.cond(x > 0, branch, lambda: x)

    function(tf.ones(()))
    graph, _, _ = graph_of(lambda x: x)
    seen += [is_within(graph), is_within(None)]
    assert [True, False, False] == seen


def test_generators_of_random_numbers_are_found():
    """Keras keeps its own in a global state, TensorFlow in a module."""
    wanted = [
        keras.src.random.seed_generator.global_seed_generator(),
        tf.random.get_global_generator(),
    ]
    found = [get() for get, _ in _GENERATORS]
    assert wanted == found
    with seed_variables_kept():
        before = [generator.state.numpy().tolist() for generator in found]
        keras.random.normal([])
        found[1].normal([])
    after = [generator.state.numpy().tolist() for generator in found]
    assert before == after
