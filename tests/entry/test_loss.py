"""Door 1: the wrapped loss is the inner loss, and checks itself."""

import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import (
    GradGuardLoss,
    GradHealthCallback,
    GradientBreakError,
    GradientBreakWarning,
)
from tests.fitting import MODES, NAMES, X, Y, classifier, fit, marked

pytestmark = pytest.mark.smoke


@keras.saving.register_keras_serializable(package="tests")
def squared(y_true, y_pred):
    """A healthy loss of a user."""
    return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)


def argmax(y_true, y_pred):
    """Cuts."""
    label = tf.cast(tf.argmax(y_pred, axis=-1), tf.float32)  # cut
    return tf.reduce_mean(label - y_true[:, 0])


HEALTHY = {
    "function": squared,
    "string": "mse",
    "class name": "MeanSquaredError",
    "class": keras.losses.MeanSquaredError,
    "Loss": keras.losses.LogCosh(),
    "sum": keras.losses.MeanSquaredError(reduction="sum"),
    "none": keras.losses.MeanSquaredError(reduction=None),
    "logits": keras.losses.CategoricalCrossentropy(from_logits=True),
    "crossentropy": "crossentropy",
}


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("name", HEALTHY)
def test_training_is_the_same_to_the_last_bit(name, eager):
    """Losses logged and weights trained are those of the inner loss."""
    results = []
    weights = np.linspace(0.5, 2.0, len(X)).astype("float32")
    for wrap in (lambda loss: loss, GradGuardLoss):
        keras.utils.set_random_seed(3)
        model = classifier(wrap(HEALTHY[name]), eager)
        history = model.fit(
            X, Y, sample_weight=weights, epochs=2, batch_size=6, verbose=0
        )
        results.append([*model.get_weights(), history.history["loss"]])
    for bare, guarded in zip(*results, strict=True):
        np.testing.assert_array_equal(bare, guarded)


@pytest.mark.parametrize("name", HEALTHY)
def test_value_shape_and_dtype(name):
    """A call returns just what the inner loss returns."""
    given = HEALTHY[name]
    guarded = GradGuardLoss(given)
    compiled = keras.Sequential([keras.Input((3,)), keras.layers.Identity()])
    compiled.compile(loss=given)
    inner = guarded._inner or keras.losses.CategoricalCrossentropy()
    scores = tf.nn.softmax(tf.constant(Y + 0.1))
    expected = inner(Y, scores)
    found = guarded(Y, scores)
    assert expected.dtype == found.dtype
    np.testing.assert_array_equal(expected, found)
    if guarded._inner is not None:
        assert (inner.name, inner.reduction) == (
            guarded.name,
            guarded.reduction,
        )
        np.testing.assert_array_equal(
            inner.call(Y, scores), guarded.call(Y, scores)
        )


def test_mask_is_kept():
    """A mask of the prediction weighs as it does without the guard."""
    values = []
    for loss in ("mse", GradGuardLoss("mse")):
        keras.utils.set_random_seed(2)
        model = keras.Sequential(
            [
                keras.Input((4, 2)),
                keras.layers.Masking(),
                keras.layers.LSTM(3, return_sequences=True),
            ]
        )
        model.compile("sgd", loss)
        x = np.ones((8, 4, 2), "float32")
        x[:, 2:] = 0.0
        y = np.ones((8, 4, 3), "float32")
        values.append(model.fit(x, y, verbose=0).history["loss"])
    assert values[0] == values[1]


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_alone_it_raises(eager):
    """Without the callback the wrapped loss names line and variables."""
    model = classifier(GradGuardLoss(argmax), eager)
    with pytest.raises(GradientBreakError) as caught:
        model.fit(X, Y, verbose=0)
    (found,) = caught.value.report.diagnoses
    assert ("GG104", *marked(argmax)) == (found.code, found.file, found.line)
    assert 4 == len(found.variables) == found.num_variables
    assert "argmax" == found.loss
    assert "No gradients provided for any variable." in str(caught.value)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_alone_a_python_failure_keeps_its_type(eager):
    """Compiled NumPy raises its own error with a note; eager is raised."""

    def loss(y_true, y_pred):
        return np.mean(np.asarray(y_true - y_pred))  # cut

    model = classifier(GradGuardLoss(loss), eager)
    expected = GradientBreakError if eager else NotImplementedError
    with pytest.raises(expected) as caught:
        model.fit(X, Y, verbose=0)
    if eager:
        (found,) = caught.value.report.diagnoses
        assert ("GG101", marked(loss)[1]) == (found.code, found.line)
    else:
        (note,) = caught.value.__notes__
        assert f":{marked(loss)[1]} in loss" in note


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_with_the_callback(eager, tmp_path):
    """Both doors together tell it once; the callback has it on record."""
    model = classifier(GradGuardLoss(argmax), eager)
    callback, error = fit(model, log_dir=tmp_path)
    assert isinstance(error, GradientBreakError)
    (found,) = callback.report.diagnoses
    assert marked(argmax)[1] == found.line
    assert "apply" not in vars(model.optimizer)
    model = classifier(GradGuardLoss(argmax, on_break="warn"), eager)
    with pytest.warns(GradientBreakWarning) as caught:
        with pytest.raises(GradientBreakError):
            model.fit(X, Y, verbose=0, callbacks=[GradHealthCallback()])
    ours = [w for w in caught if w.category is GradientBreakWarning]
    assert 1 == len(ours)


def test_warn_is_once_and_training_goes_on():
    """A second, healthy loss trains the model; the cut one warns once."""
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8)(inputs)
    outputs = [keras.layers.Dense(3, name=name)(hidden) for name in "ab"]
    model = keras.Model(inputs, outputs)
    loss = GradGuardLoss(argmax, on_break="warn")
    model.compile("sgd", loss=[loss, "mse"], run_eagerly=True)
    with pytest.warns(GradientBreakWarning) as caught:
        model.fit(X, [Y, Y], batch_size=4, epochs=3, verbose=0)
    ours = [w for w in caught if w.category is GradientBreakWarning]
    assert 1 == len(ours)
    assert "warning[GG104]" in str(ours[0].message)


def test_evaluate_is_not_checked():
    """Without a tape there is no gradient to ask for."""
    model = classifier(GradGuardLoss(argmax))
    assert np.isfinite(model.evaluate(X, Y, verbose=0))


def test_custom_loop_without_a_model():
    """In a loop of one's own the cut is found from the loss alone."""
    loss = GradGuardLoss(argmax)
    layer = keras.layers.Dense(3)
    with pytest.raises(GradientBreakError) as caught:
        with tf.GradientTape():
            loss(Y, layer(X))
    (found,) = caught.value.report.diagnoses
    assert ("GG104", marked(argmax)[1]) == (found.code, found.line)
    assert ("ArgMax", "error", ()) == (
        found.op,
        found.severity,
        found.variables,
    )


@pytest.mark.parametrize("name", HEALTHY)
def test_saves_and_loads(name, tmp_path):
    """A model compiled with it comes back with the same loss value."""
    model = classifier(GradGuardLoss(HEALTHY[name], on_break="warn"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, Y, verbose=0)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.loss, GradGuardLoss)
    assert "warn" == loaded.loss.on_break
    assert model.evaluate(X, Y, verbose=0) == loaded.evaluate(X, Y, verbose=0)
    config = loaded.loss.get_config()
    again = GradGuardLoss.from_config(config)
    assert config == again.get_config()


@pytest.mark.parametrize("bad", [None, 3, "no_such_loss", {"a": "mse"}, [1]])
def test_bad_loss(bad):
    """The error says what was given and what is expected."""
    with pytest.raises(ValueError, match=re.escape(f"loss={bad!r}")):
        GradGuardLoss(bad)


def test_bad_action():
    """An unknown action is named with the known ones."""
    with pytest.raises(ValueError, match='"raise".*on_break=.explode.'):
        GradGuardLoss("mse", on_break="explode")


def test_failure_in_a_step_of_ones_own():
    """Without a model the exception still says what it has to say."""

    def sine(y_true, y_pred):
        return tf.reduce_mean(y_true - np.sin(y_pred))

    guarded = GradGuardLoss(sine)

    @tf.function(autograph=False)
    def step(x, y):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = guarded(y, x)
        return tape.gradient(value, x)

    with pytest.raises(NotImplementedError) as caught:
        step(tf.constant(Y), tf.constant(Y))
    (note,) = caught.value.__notes__
    assert "error[GG101]" in note
