"""Each private name of eager TensorFlow, and what a release has changed."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.eager import (
    every_op_seen,
    functions_run_eagerly,
    pull_back,
)
from keras_gradguard.backend.tensorflow.internals.functions import specs_traced
from keras_gradguard.backend.tensorflow.tracing.recorder import (
    record_loss,
    record_step,
)
from keras_gradguard.graph.backward import Gradients
from keras_gradguard.model.layers import functions_of, state_of
from keras_gradguard.model.losses import wrapped_loss
from keras_gradguard.model.optimizers import unknown_to
from tests.fitting import X, Y, classifier
from tests.healthy import layers, losses, sequences, steps, surrogates


def test_every_op_is_seen_with_its_values():
    """`op_callbacks` still calls back for eager ops, and stops doing so."""
    seen = []
    with every_op_seen(lambda *op: seen.append(op)):
        tf.sqrt(tf.constant([4.0]))
    (found,) = [op for op in seen if op[0] == "Sqrt"]
    assert 4.0 == float(found[1][0][0])
    assert 2.0 == float(found[3][0][0])
    count = len(seen)
    tf.sqrt(tf.constant([4.0]))
    assert count == len(seen)


@pytest.mark.parametrize(
    "op",
    [
        lambda x, v, w: tf.multiply(v, x),
        lambda x, v, w: tf.multiply(x, v),
        lambda x, v, w: tf.add_n([x, v]),
        lambda x, v, w: tf.multiply(w, v),
        lambda x, v, w: keras.Variable(v.value()) * x,
    ],
    ids=["left", "right", "list", "two", "keras"],
)
def test_what_an_op_reads_itself_is_seen(op):
    """C++ still hands the callback what it has read of a variable."""
    x, v, w = tf.constant([4.0]), tf.Variable([2.0]), tf.Variable([3.0])
    seen = []
    with every_op_seen(lambda *op: seen.append(op)):
        op(x, v, w)
    made = {id(t) for name, *_, outputs in seen for t in outputs}
    last = seen[-1]
    assert all(id(t) in made or t is x for t in last[1])
    reads = [found for found in seen if found[0] == "ReadVariableOp"]
    assert {v.ref(): 2.0, w.ref(): 3.0}.items() >= {
        (one.ref(), float(value[0]))
        for _, (handle,), _, (value,) in reads
        for one in (v, w)
        if one.handle is handle
    }
    assert reads


def test_gradient_function_of_one_op():
    """`_gradient_function` still takes an op apart from any tape."""
    x = tf.constant([4.0])
    found = pull_back("Sqrt", (), (x,), (tf.sqrt(x),), [tf.constant([1.0])])
    assert [0.25] == [float(gradient[0]) for gradient in found]
    with pytest.raises(LookupError):
        pull_back("NoSuchOp", (), (x,), (x,), [x])


def test_custom_gradients_tell_of_themselves():
    """`record_operation` is still what a custom gradient calls."""

    @tf.custom_gradient
    def doubled(x):
        return x + 0.0, lambda upstream: 2.0 * upstream

    def loss(y_true, y_pred):
        return tf.reduce_sum(doubled(y_pred))

    wrapped = wrapped_loss(loss, loss)
    recording = record_loss(wrapped, tf.constant(Y), tf.constant(Y))
    assert any(op.has_own_gradient for op in recording.graph.ops)
    (call,) = recording.targets
    gradients = Gradients(recording.graph, call, lambda pullback: None)
    _, (_, prediction) = recording.batch
    assert 2.0 == float(gradients.of(prediction.native)[0, 0])


def test_functions_run_eagerly_again_as_before():
    """The switch is set back, also after an exception."""
    with pytest.raises(ZeroDivisionError):
        with functions_run_eagerly():
            assert tf.config.functions_run_eagerly()
            raise ZeroDivisionError
    assert not tf.config.functions_run_eagerly()


def test_keras_state():
    """Weights and seeds, no metrics; what an optimizer does not know."""
    model = classifier("mse", middle=keras.layers.Dropout(0.5))
    assert [] == functions_of(None)
    model.fit(X, Y, verbose=0)
    function, *_ = functions_of(model.train_function)
    assert 1 == function.experimental_get_tracing_count()
    (spec,) = specs_traced(function)
    assert isinstance(spec, tf.data.IteratorSpec)
    paths = [variable.path for variable in state_of(model)]
    assert 4 == len([path for path in paths if path.startswith("net/")])
    assert any("seed" in path for path in paths)
    assert not any("total" in path for path in paths)
    other = keras.Variable([1.0])
    unknown = unknown_to(model.optimizer, [*model.trainable_variables, other])
    assert [id(other)] == [id(variable) for variable in unknown]


CASES = (
    losses.focal,
    losses.spectrum,
    layers.batch_normalisation,
    surrogates.recomputed_layer,
    layers.mixture_of_experts,
    sequences.embedding,
    sequences.masked_lstm,
    sequences.self_attention,
    steps.gradient_penalty,
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_step_taken_back_is_the_tape(case):
    """Op by op, the gradients are those that the tape gives."""
    keras.utils.set_random_seed(0)
    model, x, y = case()
    parts = [x] if y is None else [x, y]
    batch = tuple(
        keras.tree.map_structure(lambda v: tf.constant(v[:8]), part)
        for part in parts
    )
    if not model.built:
        model(batch[0])
    before = [np.asarray(variable.value) for variable in model.weights]
    recording = record_step(model, batch)
    assert recording.error is None
    for one, two in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(one, two.value)
    ((variables, gradients),) = recording.applied
    asked = {id(v.value) for v in variables} | {id(v) for v in variables}
    call = next(
        call
        for call in recording.targets
        if asked & {id(source) for source in call.sources}
    )
    taken = Gradients(recording.graph, call, lambda pullback: None)
    for variable, gradient in zip(variables, gradients, strict=True):
        np.testing.assert_allclose(
            tf.convert_to_tensor(taken.of(variable)),
            tf.convert_to_tensor(gradient),
            rtol=1e-4,
            atol=1e-7,
        )
