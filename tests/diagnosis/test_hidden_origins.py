"""NaN and Inf of one step that another one hides."""

import numpy as np
import pytest
import tensorflow as tf

import keras_gradguard
from keras_gradguard import check_loss
from tests.fitting import MODES, NAMES, X, Y, classifier, fit, marked


class Corrected:
    """What the oracle sets to true: the first origin is corrected then."""

    now = False


def below(y_pred):
    """Numbers outside of the domain of a root, inside once corrected."""
    return tf.square(y_pred) + (1.0 if Corrected.now else -99.0)


def derivative_behind_value(y_true, y_pred):
    """A loss that is NaN hides a root at zero in another addend."""
    first = tf.reduce_mean(tf.sqrt(below(y_pred)))  # cut
    return first + tf.reduce_mean(tf.sqrt(0.0 * y_pred))  # hidden


def derivative_behind_derivative(y_true, y_pred):
    """The gradient of the outer root is Inf before the inner is asked."""
    inner = tf.sqrt(0.0 * y_pred)  # hidden
    shift = 1.0 if Corrected.now else 0.0
    return tf.reduce_mean(tf.sqrt(inner + shift))  # cut


def infinity_behind_nan(y_true, y_pred):
    """NaN + Inf is NaN."""
    first = tf.reduce_mean(tf.sqrt(below(y_pred)))  # cut
    return first + tf.reduce_mean(tf.math.log(0.0 * y_pred))  # hidden


def in_the_same_tensor(y_true, y_pred):
    """A logarithm of some NaN, and of some zeros of its own."""
    root = tf.sqrt(below(y_pred))  # cut
    both = tf.concat([root, 0.0 * y_pred], axis=-1)
    return tf.reduce_mean(tf.math.log(both))  # hidden


@tf.function
def in_a_function(y_true, y_pred):
    """The same in a function of TensorFlow, and in a branch."""
    root = tf.reduce_mean(tf.sqrt(below(y_pred)))  # cut
    if tf.reduce_mean(y_true) > -1.0:
        root += tf.reduce_mean(tf.math.log(0.0 * y_pred))  # hidden
    return root


BAD = [
    derivative_behind_value,
    derivative_behind_derivative,
    infinity_behind_nan,
    in_the_same_tensor,
    in_a_function,
]


def depends_on_it(y_true, y_pred):
    """The root of what comes out is taken: who knows what it will be."""
    size = -tf.math.log(tf.square(y_pred) + (0.5 if Corrected.now else np.nan))
    return tf.reduce_mean(tf.sqrt(tf.abs(size)) + tf.sqrt(3.0 + size))


def one_less_it(y_true, y_pred):
    """Likewise."""
    share = tf.sqrt(below(0.1 * y_pred)) / 2.0  # cut
    return tf.reduce_mean(tf.math.log(1.0 - 0.1 * share))


def mask_of_infinity(y_true, y_pred):
    """A mask is no origin, with or without a NaN beside it."""
    mask = tf.math.log(tf.constant([1.0, 1.0, 0.0]))
    scores = tf.sqrt(below(y_pred)) + mask  # cut
    return tf.reduce_mean(tf.nn.softmax(scores) * [1.0, 2.0, 3.0])


def safe_root(y_true, y_pred):
    """The double where, in another addend."""
    first = tf.reduce_mean(tf.sqrt(below(y_pred)))  # cut
    size = tf.nn.relu(y_pred)
    safe = tf.where(size > 0.0, size, 1.0)
    return first + tf.reduce_mean(
        tf.where(size > 0.0, tf.sqrt(safe), 0.0 * size)
    )


def behind_a_stop(y_true, y_pred):
    """No gradient is asked of a root whose value is kept apart."""
    first = tf.reduce_mean(tf.sqrt(below(y_pred)))  # cut
    root = tf.stop_gradient(tf.sqrt(0.0 * y_pred))
    return first + tf.reduce_mean(root * y_pred)


def of_the_targets(y_true, y_pred):
    """Nor of one that no variable leads to."""
    first = tf.reduce_mean(tf.sqrt(below(y_pred)))  # cut
    return first + tf.reduce_mean(tf.sqrt(0.0 * y_true) * y_pred)


HEALTHY = [
    depends_on_it,
    one_less_it,
    mask_of_infinity,
    safe_root,
    behind_a_stop,
    of_the_targets,
]
PREDICTION = X[:, :3]


def is_finite_once_corrected(loss):
    """What TensorFlow says of the loss with its first origin corrected."""
    Corrected.now = True
    tf.config.run_functions_eagerly(True)
    try:
        with tf.GradientTape() as tape:
            y_pred = tf.constant(PREDICTION)
            tape.watch(y_pred)
            value = loss(tf.constant(Y), y_pred)
        gradient = tape.gradient(value, y_pred).numpy()
        return bool(np.isfinite(value) and np.isfinite(gradient).all())
    finally:
        Corrected.now = False
        tf.config.run_functions_eagerly(False)


def uncovered(diagnosis):
    """The notes on what is hidden."""
    notes = diagnosis.evidence.get("notes", ())
    return [note for note in notes if "uncovers another" in note]


def function_of(loss):
    """The Python function of a loss."""
    return getattr(loss, "python_function", loss)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("loss", BAD, ids=lambda loss: loss.__name__)
def test_the_card_lists_what_is_hidden(loss, eager):
    """With its line, which is what remains once the first is corrected."""
    assert not is_finite_once_corrected(loss)
    callback, error = fit(classifier(loss, eager))
    assert error is None
    (found,) = callback.report.diagnoses
    assert marked(function_of(loss)) == (found.file, found.line)
    (note,) = uncovered(found)
    _, line = marked(function_of(loss), "# hidden")
    assert f"test_hidden_origins.py:{line}," in note
    assert " ".join(note.split()[:5]) in " ".join(str(found).split())


@pytest.mark.parametrize("loss", BAD, ids=lambda loss: loss.__name__)
def test_of_a_loss_alone(loss):
    """`check_loss` says the same."""
    found = check_loss(loss, Y, PREDICTION).diagnoses[0]
    (note,) = uncovered(found)
    assert f":{marked(function_of(loss), '# hidden')[1]}," in note


@pytest.mark.parametrize("loss", HEALTHY, ids=lambda loss: loss.__name__)
def test_nothing_else_is_wrong(loss):
    """What hangs on the first, or is on purpose, is not listed."""
    assert is_finite_once_corrected(loss)
    callback, _ = fit(classifier(loss))
    assert callback.report.diagnoses
    assert [] == [n for d in callback.report.diagnoses for n in uncovered(d)]
    for found in check_loss(loss, Y, PREDICTION).diagnoses:
        assert [] == uncovered(found)


def test_not_of_a_batch_that_is_not_finite():
    """All that is computed from it may be what it is."""
    x = X.copy()
    x[3, 1] = np.nan
    callback, _ = fit(classifier(derivative_behind_derivative), x=x)
    for found in callback.report.diagnoses:
        assert [] == uncovered(found)


def test_in_a_loop():
    """A step that cannot be run again shows what its derivatives hide."""
    model = classifier("mse", eager=True)
    optimizer = model.optimizer
    with pytest.warns(UserWarning), keras_gradguard.watch(model) as guard:
        with tf.GradientTape() as tape:
            loss = derivative_behind_value(Y, model(X))
        weights = model.trainable_variables
        optimizer.apply(tape.gradient(loss, weights), weights)
    (found,) = guard.report.diagnoses
    (note,) = uncovered(found)
    assert f":{marked(derivative_behind_value, '# hidden')[1]}," in note


def test_what_stands_in_is_cast():
    """The op that gives Inf is one that the stand-in needs as well."""

    def half(y_true, y_pred):
        short = tf.cast(1e6 + y_pred, tf.float16)  # cut
        first = tf.square(tf.cast(tf.reduce_mean(short), tf.float32))
        return first + tf.reduce_mean(tf.sqrt(0.0 * y_pred))  # hidden

    callback, _ = fit(classifier(half))
    (note,) = uncovered(callback.report.diagnoses[0])
    assert f":{marked(half, '# hidden')[1]}," in note
