"""What users get where Keras runs on another backend than TensorFlow.

A program that checks itself, in a process of its own: `KERAS_BACKEND=jax
python -m tests.entry.other_backend` where JAX is installed; TensorFlow need
not be. Where Keras runs on TensorFlow it says "jax" when it is asked, and no
module of this package can import TensorFlow.
"""

import builtins
import contextlib
import io
import os
import tempfile
import warnings

import keras
import numpy as np

import keras_gradguard
from keras_gradguard import backend
from keras_gradguard.__main__ import main
from keras_gradguard.errors import (
    UnsupportedBackendError,
    UnsupportedBackendWarning,
)

if keras.backend.backend() == "tensorflow":
    keras.backend.backend = lambda: "jax"
NAME = keras.backend.backend()

_import = builtins.__import__


def without_tensorflow(name, globals=None, *arguments, **named):
    """Imports a module, but not TensorFlow into this package."""
    importer = (globals or {}).get("__name__") or ""
    is_ours = importer.split(".")[0] == "keras_gradguard"
    if is_ours and name.split(".")[0] == "tensorflow":
        raise ModuleNotFoundError(f"{importer} imports {name}", name=name)
    return _import(name, globals, *arguments, **named)


builtins.__import__ = without_tensorflow

X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
Y = np.eye(3, dtype="float32")[np.arange(16) % 3]
WEIGHTS = np.linspace(0.5, 2.0, 16).astype("float32")


@keras.saving.register_keras_serializable(package="tests")
def squared(y_true, y_pred):
    """A loss of a user."""
    return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)


@keras.saving.register_keras_serializable(package="tests")
def cut(y_true, y_pred):
    """A loss without a gradient."""
    return keras.ops.mean(keras.ops.stop_gradient(y_pred) - y_true, axis=-1)


def two_heads(loss, cut_loss):
    """A model whose second head learns nothing."""
    keras.utils.set_random_seed(7)
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8, activation="relu")(inputs)
    heads = [keras.layers.Dense(3, name=name)(hidden) for name in "ab"]
    model = keras.Model(inputs, heads)
    model.compile("adam", loss=[loss, cut_loss])
    return model


def trained(model, callbacks=()):
    """What a training leaves behind."""
    history = model.fit(
        X,
        [Y, Y],
        sample_weight=[WEIGHTS, WEIGHTS],
        epochs=2,
        batch_size=6,
        verbose=0,
        callbacks=list(callbacks),
    )
    return model.get_weights(), history.history


def assert_named(text):
    """The backend, the supported one, and three ways to choose it."""
    for words in (
        f"the Keras backend is {NAME}, ",
        "supports only tensorflow",
        "before Keras is imported",
        "KERAS_BACKEND=tensorflow in the environment",
        'os.environ["KERAS_BACKEND"] = "tensorflow"',
        "keras.json",
    ):
        assert words in text, (words, text)
    assert "\n" not in text
    assert "pip install" not in text


def checks_that_cannot_run_raise():
    """`diagnose`, `check_loss`, `watch` and the replay of an incident."""
    model = two_heads(squared, cut)
    for check in (
        lambda: keras_gradguard.diagnose(model, X, [Y, Y]),
        lambda: keras_gradguard.check_loss(cut, Y, X[:, :3]),
        lambda: keras_gradguard.watch(model),
    ):
        try:
            check()
        except UnsupportedBackendError as error:
            assert isinstance(error, RuntimeError)
            assert_named(str(error))
        else:
            raise AssertionError("nothing was raised")
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert 2 == main(["replay", "no_folder", "--model", "file.py:made"])
    assert_named(said.getvalue().strip())


def wrong_arguments_are_told_as_ever():
    """What is checked of the arguments needs no backend."""
    for wrong in (
        lambda: keras_gradguard.GradGuardLoss("no_such_loss"),
        lambda: keras_gradguard.GradGuardLoss("mse", on_break="explode"),
        lambda: keras_gradguard.GradHealthCallback(on_nonfinite="explode"),
        lambda: keras_gradguard.GradHealthCallback(thresholds="none"),
    ):
        try:
            wrong()
        except ValueError:
            continue
        raise AssertionError("nothing was raised")


def losses_are_the_inner_ones():
    """Value, reduction, dtype, mask and sample weights; saved and loaded."""
    scores = keras.ops.softmax(keras.ops.convert_to_tensor(X[:, :3]))
    scores._keras_mask = keras.ops.convert_to_tensor(np.arange(16) % 2 == 0)
    for loss in (
        squared,
        "mse",
        keras.losses.MeanSquaredError,
        keras.losses.Huber(reduction="sum", name="robust"),
        keras.losses.MeanSquaredError(reduction=None, dtype="float16"),
        keras.losses.CategoricalCrossentropy(label_smoothing=0.1),
    ):
        guarded = keras_gradguard.GradGuardLoss(loss, on_break="stop")
        stored, inner = stored_and_read(guarded), guarded._inner
        assert stored.get_config() == guarded.get_config()
        # Keras itself does not store every field of a loss.
        for bare, wrapped in (
            (inner, guarded),
            (stored_and_read(inner), stored),
        ):
            assert (bare.name, bare.reduction) == (
                wrapped.name,
                wrapped.reduction,
            )
            for weights in (None, WEIGHTS):
                expected = keras.ops.convert_to_numpy(bare(Y, scores, weights))
                found = keras.ops.convert_to_numpy(wrapped(Y, scores, weights))
                assert expected.dtype == found.dtype
                np.testing.assert_array_equal(expected, found)


def stored_and_read(loss):
    """What `model.save` makes of a loss, and `load_model` of that."""
    stored = keras.saving.serialize_keras_object(loss)
    return keras.saving.deserialize_keras_object(stored)


def training_goes_on_as_without():
    """Loss, callback and both: the weights and logs of bare Keras."""
    guard = keras_gradguard.GradGuardLoss
    expected = trained(two_heads(squared, cut))
    with tempfile.TemporaryDirectory() as folder:
        for losses, is_called in (
            ((guard(squared), guard(cut)), False),
            ((squared, cut), True),
            ((guard(squared), guard(cut)), True),
        ):
            callback = keras_gradguard.GradHealthCallback(
                os.path.join(folder, "logs"),
                on_break="raise",
                on_nonfinite="skip",
            )
            model = two_heads(*losses)
            backend._warned.clear()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found = trained(model, [callback] if is_called else [])
                trained(two_heads(*losses), [callback] if is_called else [])
            one_warning(caught)
            assert expected[1] == found[1]
            for bare, guarded in zip(expected[0], found[0], strict=True):
                np.testing.assert_array_equal(bare, guarded)
            nothing_was_checked(callback.report)
            assert not os.path.exists(callback.log_dir)
            # Keras on JAX waits for callbacks that are not.
            assert callback.async_safe
        path = os.path.join(folder, "model.keras")
        model.save(path)
        loaded = keras.saving.load_model(path)
    assert isinstance(loaded.loss[1], guard)
    assert model.evaluate(X, [Y, Y], verbose=0) == loaded.evaluate(
        X, [Y, Y], verbose=0
    )


def one_warning(caught):
    """One in the whole process, and none of a broken gradient."""
    errors = UnsupportedBackendWarning.__module__
    (warning,) = (w for w in caught if w.category.__module__ == errors)
    assert warning.category is UnsupportedBackendWarning, warning
    text = str(warning.message)
    assert text.startswith("Gradients are not checked: ")
    assert_named(text)


def nothing_was_checked(report):
    """No view of the report says that the model is well."""
    assert not report.ok
    assert report.not_checked == report.to_dict()["not_checked"]
    assert_named(report.not_checked)
    for text in (str(report), report._repr_html_()):
        assert "report: not checked" in text
        assert f"the Keras backend is {NAME}, " in text
        assert "nothing broken" not in text
        assert "0 trainable" not in text


if __name__ == "__main__":
    checks_that_cannot_run_raise()
    wrong_arguments_are_told_as_ever()
    nothing_was_checked(keras_gradguard.GradHealthCallback().report)
    training_goes_on_as_without()
    losses_are_the_inner_ones()
    print(f"as it should be on {NAME}")
