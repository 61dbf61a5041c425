"""`-W error`: a finding ends the training, as the user says; no fault does."""

import warnings

import keras
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback, diagnose, watch
from keras_gradguard.errors import GradientBreakWarning
from tests.fitting import MODES, NAMES, X, Y, classifier


@pytest.fixture(autouse=True)
def strict_filter(monkeypatch):
    """All warnings are errors, but those of Keras about NumPy."""
    monkeypatch.setenv("KERAS_GRADGUARD_STRICT", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


class Hard(keras.layers.Layer):
    """Cuts the gradient."""

    def call(self, x):
        """Makes truth values of numbers."""
        return tf.cast(x > 0.0, x.dtype)


class Spoiled(keras.layers.Layer):
    """Gives NaN."""

    def call(self, x):
        """Takes the logarithm of what is negative."""
        return tf.math.log(-tf.abs(x) - 1.0)


def fit(model, **arguments):
    """Fits two epochs; returns the callback and what ended it."""
    callback, error = GradHealthCallback(every=1, **arguments), None
    try:
        model.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[callback])
    except Exception as raised:
        error = raised
    return callback, error


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_a_healthy_fit(eager, tmp_path, capsys):
    """Nothing of the guard warns."""
    callback, error = fit(classifier("mse", eager), log_dir=tmp_path)
    assert error is None
    assert callback.report.not_checked is None
    assert "GG900" not in capsys.readouterr().err


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize(
    ("middle", "kind"), [(Hard, "disconnected"), (Spoiled, "nonfinite")]
)
def test_a_finding(middle, kind, eager, tmp_path, capsys):
    """It is raised as it would be warned of, and the model trains again."""
    model = classifier("mse", eager, middle())
    callback, error = fit(model, log_dir=tmp_path)
    assert isinstance(error, GradientBreakWarning), error
    assert {kind} == {d.kind for d in callback.report.diagnoses}
    assert callback.report.not_checked is None
    assert "GG900" not in capsys.readouterr().err
    assert "apply" not in vars(model.optimizer)
    # Keras itself warns of the cut.
    warnings.simplefilter("ignore", UserWarning)
    model.fit(X, Y, verbose=0)


@pytest.mark.parametrize("is_graph", MODES, ids=["eager", "graph"])
def test_a_finding_in_a_loop(is_graph, capsys):
    """The same in `watch`, whose optimizer is as it was."""
    model = classifier("mse", middle=Hard())
    optimizer = keras.optimizers.SGD()

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(y - model(x, training=True)))
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)

    step = tf.function(step) if is_graph else step
    with pytest.raises(GradientBreakWarning):
        with watch(model, every=1) as health:
            for _ in range(3):
                step(tf.constant(X), tf.constant(Y))
                health.step()
    assert health.report.not_checked is None
    assert "apply" not in vars(optimizer)
    assert "GG900" not in capsys.readouterr().err


def test_diagnose(capsys):
    """It warns of nothing: what it finds is in its report."""
    report = diagnose(classifier("mse", middle=Hard()), X, Y)
    assert report.diagnoses and report.not_checked is None
    assert "GG900" not in capsys.readouterr().err
