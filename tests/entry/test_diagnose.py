"""One look at a model and one batch leaves everything as it was."""

import json
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradGuardLoss, diagnose
from tests.fitting import MODES, NAMES, X, Y, classifier, marked

pytestmark = pytest.mark.smoke


def rounded(y_true, y_pred):
    """Cuts everything."""
    return tf.reduce_mean(tf.square(y_true - tf.round(y_pred)))  # cut


def in_map(y_true, y_pred):
    """Cuts with zeros in place of None when compiled."""
    return tf.reduce_mean(tf.map_fn(tf.round, y_pred) - y_true)  # cut


def numpy_mean(y_true, y_pred):
    """Leaves TensorFlow."""
    return np.mean(np.asarray(y_true - y_pred))  # cut


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("loss", [rounded, in_map, numpy_mean])
def test_broken(loss, eager):
    """The same diagnosis as in `fit`, and nothing is raised."""
    report = diagnose(classifier(loss, eager), X, Y)
    (found,) = report.diagnoses
    assert marked(loss) == (found.file, found.line)
    assert "error" == found.severity
    assert not report.ok
    assert 4 == len(report.variables)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_after_a_fit_that_failed(optimizer, eager):
    """What is asked where Keras has said no more than "No gradients"."""
    model = classifier(rounded, eager, optimizer=optimizer)
    with pytest.raises(ValueError, match="No gradients provided"):
        model.fit(X, Y, verbose=0)
    (found,) = diagnose(model, X, Y).diagnoses
    assert ("GG105", *marked(rounded)) == (found.code, found.file, found.line)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_guarded_loss_does_not_raise(eager):
    """A model compiled with GradGuardLoss gets a report all the same."""
    report = diagnose(classifier(GradGuardLoss(rounded), eager), X, Y)
    assert ["GG105"] == [found.code for found in report.diagnoses]
    assert {"missing"} == {row.status for row in report.variables}


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_leaves_no_trace(eager):
    """Weights, slots, metrics, random state and bindings are as before."""
    keras.utils.set_random_seed(9)
    middle = keras.Sequential(
        [keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    )
    model = classifier("mse", eager, middle, optimizer="adam")
    model.compile("adam", "mse", metrics=["mae"], run_eagerly=eager)
    model.fit(X, Y, verbose=0)
    variables = [
        *model.variables,
        *model.optimizer.variables,
        *model.metrics_variables,
    ]
    before = [np.array(v) for v in variables]
    bound = dict(vars(model.optimizer)), model.train_function
    draws = []
    for look in (False, True):
        tf.random.set_seed(1)
        random.seed(1)
        np.random.seed(1)
        if look:
            assert diagnose(model, X, Y).ok
        draws.append(
            (random.random(), np.random.rand(), float(tf.random.normal([])))
        )
    assert draws[0] == draws[1]
    for old, variable in zip(before, variables, strict=True):
        np.testing.assert_array_equal(old, variable)
    assert bound == (dict(vars(model.optimizer)), model.train_function)
    assert "train_step" not in vars(model)


def test_numpy_float64_and_sample_weight():
    """Arrays are taken as `fit` takes them."""
    weights = np.zeros(len(X))
    report = diagnose(classifier("mse"), X.astype("float64"), Y, weights)
    assert {"zero"} == {row.status for row in report.variables}
    assert "undecided" == report.verdict


def test_unbuilt_model():
    """A model without variables yet is built."""
    model = keras.Sequential([keras.layers.Dense(3)])
    model.compile("sgd", "mse")
    report = diagnose(model, X, Y)
    assert {"ok"} == {row.status for row in report.variables}


def test_not_compiled():
    """The error says what to do."""
    with pytest.raises(ValueError, match="model.compile"):
        diagnose(keras.Sequential([keras.layers.Dense(3)]), X, Y)
    with pytest.raises(ValueError, match="Received: model=3"):
        diagnose(3, X, Y)


def test_other_errors_pass():
    """A wrong shape is not about gradients."""
    with pytest.raises(Exception, match="hape|dim"):
        diagnose(classifier("mse"), X[:, :2], Y)


def test_report_as_json_and_html():
    """Every view holds the diagnosis; NaN does not break JSON."""
    report = diagnose(classifier(rounded), X, Y)
    values = json.loads(report.to_json())
    assert "GG105" == values["diagnoses"][0]["code"]
    assert [v.path for v in report.variables] == [
        row["path"] for row in values["variables"]
    ]
    assert "GG105" in str(report)
    assert "GG105" in report._repr_html_()
    assert "&lt;-X-" in report._repr_html_()
    x = np.full_like(X, np.nan)
    text = diagnose(classifier("mse"), x, Y).to_json()
    json.loads(text, parse_constant=pytest.fail)
