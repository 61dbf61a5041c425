"""A failure in Python keeps its type and carries the diagnosis."""

import math

import keras
import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf

from keras_gradguard.errors import GradientBreakError
from tests.fitting import Y, classifier, fit, marked


def numpy_mean(y_true, y_pred):
    """NumPy."""
    return np.mean(np.asarray(y_true - y_pred))  # cut


def numpy_deep_below(y_true, y_pred):
    """NumPy in a helper that others call."""

    def spread(values):
        centred = values - 1.0
        return np.std(centred)  # cut

    return tf.reduce_mean(y_true) * spread(y_pred)


def numpy_method(y_true, y_pred):
    """`.numpy()`."""
    total = tf.reduce_sum(y_pred)
    return tf.reduce_mean(y_true) * total.numpy()  # cut


def to_float(y_true, y_pred):
    """`float()`."""
    weight = float(tf.reduce_sum(y_pred))  # cut
    return tf.reduce_mean(y_true) * weight


def to_int(y_true, y_pred):
    """`int()`."""
    return tf.reduce_mean(y_true) * int(tf.reduce_sum(y_pred))  # cut


def math_module(y_true, y_pred):
    """`math.exp`."""
    return tf.reduce_mean(y_true) * math.exp(tf.reduce_mean(y_pred))  # cut


def constant_of_list(y_true, y_pred):
    """A list of Python numbers made a tensor again."""
    rows = tf.constant([float(tf.reduce_sum(y_pred))])  # cut
    return tf.reduce_mean(y_true) * rows[0]


def scikit(y_true, y_pred):
    """A scikit-learn metric as a loss: the line is the call of it."""
    error = sklearn.metrics.mean_squared_error(y_true, y_pred)  # cut
    return tf.convert_to_tensor(error, tf.float32)


def keras_numpy(y_true, y_pred):
    """Keras' own way to NumPy."""
    values = keras.ops.convert_to_numpy(2.0 * y_pred)  # cut
    return tf.reduce_mean(y_true - values)


def python_max(y_true, y_pred):
    """`max()` asks for a truth value; eager mode differentiates it."""
    return max(tf.reduce_mean(tf.square(y_true - y_pred)), 0.1)  # cut


def loop(y_true, y_pred):
    """A Python loop over the rows; eager mode differentiates it."""
    total = 0.0
    for row in y_pred:  # cut
        total += tf.reduce_sum(tf.square(row))
    return total + tf.reduce_sum(y_true)


def length(y_true, y_pred):
    """`len()` of a batch; eager mode differentiates the rest."""
    return tf.reduce_sum(tf.square(y_true - y_pred)) / len(y_pred)  # cut


def counted(y_true, y_pred):
    """`range()` of a tensor; eager mode differentiates the rest."""
    total = tf.reduce_sum(y_true)
    for row in range(tf.shape(y_pred)[0]):  # cut
        total += y_pred[row, 0]
    return total


@tf.function
def helper(scores):
    """NumPy in a helper that AutoGraph has converted."""
    if tf.reduce_mean(scores) > 0:
        scores = 2.0 * scores
    return np.square(scores)  # cut


def in_helper(y_true, y_pred):
    """Calls the helper."""
    return tf.reduce_mean(y_true - helper(y_pred))


CUTS = {
    numpy_mean: (NotImplementedError, "GG101", numpy_mean),
    numpy_deep_below: (NotImplementedError, "GG101", numpy_deep_below),
    numpy_method: (AttributeError, "GG108", numpy_method),
    to_float: (TypeError, "GG108", to_float),
    to_int: (TypeError, "GG108", to_int),
    math_module: (TypeError, "GG108", math_module),
    constant_of_list: (TypeError, "GG119", constant_of_list),
    scikit: (Exception, "GG101", scikit),
    keras_numpy: (NotImplementedError, "GG101", keras_numpy),
    in_helper: (NotImplementedError, "GG101", helper.python_function),
}
EAGER_ONLY = {
    python_max: ("GG109", python_max),
    loop: ("GG110", loop),
    length: ("GG110", length),
    counted: ("GG110", counted),
}


@pytest.mark.parametrize("loss", CUTS, ids=lambda loss: loss.__name__)
def test_compiled_keeps_the_exception(loss):
    """The user's own exception passes, with the diagnosis as a note."""
    kind, code, home = CUTS[loss]
    callback, error = fit(classifier(loss))
    assert isinstance(error, kind)
    assert not isinstance(error, GradientBreakError)
    (found,) = callback.report.diagnoses
    assert (code, *marked(home)) == (found.code, found.file, found.line)
    assert "untraceable" == found.kind
    assert 4 == len(found.variables)
    (note,) = error.__notes__
    assert str(found) in note


@pytest.mark.parametrize(
    "loss",
    [loss for loss in CUTS if loss is not in_helper],
    ids=lambda loss: loss.__name__,
)
def test_eager_is_seen_through(loss):
    """Eager mode cuts silently; the same line is found by tracing once."""
    _, code, home = CUTS[loss]
    callback, error = fit(classifier(loss, eager=True))
    assert isinstance(error, GradientBreakError)
    assert "No gradients provided for any variable." in str(error)
    (found,) = callback.report.diagnoses
    assert (code, *marked(home)) == (found.code, found.file, found.line)
    assert error.report.diagnoses == (found,)


@pytest.mark.parametrize("loss", EAGER_ONLY, ids=lambda loss: loss.__name__)
def test_what_eager_mode_differentiates(loss):
    """Compiled it fails at the line; eagerly it trains, so no alarm."""
    code, home = EAGER_ONLY[loss]
    callback, error = fit(classifier(loss))
    (found,) = callback.report.diagnoses
    assert (code, *marked(home)) == (found.code, found.file, found.line)
    assert len(error.__notes__) == 1
    callback, error = fit(classifier(loss, eager=True))
    assert error is None
    assert callback.report.ok


def test_debug_print_is_not_accused():
    """A read-out whose value is thrown away is no cause."""

    def loss(y_true, y_pred):
        print(float(tf.reduce_mean(y_pred)), end="")
        return tf.constant(np.mean(np.asarray(y_true - y_pred)))  # cut

    callback, _ = fit(classifier(loss, eager=True))
    (found,) = callback.report.diagnoses
    assert ("GG119", marked(loss)[1]) == (found.code, found.line)
    assert "proved" == found.certainty


def test_predict_in_a_loss():
    """`predict` inside a step fails in Keras; the line is named."""
    teacher = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])

    def loss(y_true, y_pred):
        guess = teacher.predict(y_pred, verbose=0)  # cut
        return tf.reduce_mean(y_true - guess)

    for eager in (False, True):
        callback, error = fit(classifier(loss, eager))
        assert error is not None
        (found,) = callback.report.diagnoses
        assert ("GG121", marked(loss)[1]) == (found.code, found.line)


def test_other_exceptions_pass_untouched():
    """A wrong shape or a plain bug is none of the guard's business."""

    def wrong_shape(y_true, y_pred):
        return tf.reduce_mean(tf.matmul(y_true, y_pred))

    def plain_bug(y_true, y_pred):
        return y_pred.no_such_thing + {}["key"]

    def own_error(y_true, y_pred):
        raise RuntimeError("mine")

    for loss in (wrong_shape, own_error):
        callback, error = fit(classifier(loss))
        assert not hasattr(error, "__notes__")
        assert () == callback.report.diagnoses
        assert not isinstance(error, GradientBreakError)
    assert Y.dtype == np.float32


def reads_inside(y_true, y_pred):
    """Cut inside a Python function: the backward pass crashes elsewhere."""
    inner = tf.py_function(lambda t: t.numpy(), [y_pred], tf.float32)  # cut
    return tf.reduce_mean(y_true - tf.ensure_shape(inner, (None, 3)))


def fails_inside(y_true, y_pred):
    """A Python function with a bug of its own."""

    def broken(values):
        raise ZeroDivisionError("mine")

    return tf.reduce_mean(y_true - tf.py_function(broken, [y_pred], tf.float32))


@pytest.mark.parametrize("eager", [False, True], ids=["compiled", "eager"])
def test_crash_in_the_backward_pass(eager):
    """The Python function is suspected, and the exception keeps its type."""
    callback, error = fit(classifier(reads_inside, eager))
    assert isinstance(error, tf.errors.InvalidArgumentError)
    (found,) = callback.report.diagnoses
    assert ("GG116", marked(reads_inside)[1]) == (found.code, found.line)
    assert "suspected" == found.certainty
    assert len(error.__notes__) == 1


@pytest.mark.parametrize("eager", [False, True], ids=["compiled", "eager"])
def test_bug_in_a_python_function_passes_untouched(eager):
    """An exception raised inside it is not about gradients."""
    callback, error = fit(classifier(fails_inside, eager))
    assert error is not None
    assert () == callback.report.diagnoses
    assert not hasattr(error, "__notes__")
