"""One look at a loss alone: what it finds, and when it is silent."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradGuardLoss, check_loss
from keras_gradguard.backend.tensorflow.internals.eager import CUSTOM_GRADIENT
from keras_gradguard.diagnosis.wrong_gradient import mismatch
from tests.fitting import X, Y, marked, skip_on_keras_3_5
from tests.healthy import loss_code, losses

PREDICTION = X[:, :3]
PROBABILITIES = np.exp(PREDICTION) / np.exp(PREDICTION).sum(-1, keepdims=True)


@tf.custom_gradient
def cubic_instead(x):
    """The gradient of a square, half as much again."""
    return x * x, lambda upstream: upstream * 3.0 * x


@tf.custom_gradient
def square(x):
    return x * x, lambda upstream: upstream * 2.0 * x


@tf.custom_gradient
def error_with_sign(y_true, y_pred):
    """Right for nobody: the sign is lost."""
    error = y_true - y_pred
    return tf.square(error), lambda upstream: (None, upstream * 2.0 * error)


@tf.custom_gradient
def one_wrong_element(x):
    def gradient(upstream):
        factor = np.ones(x.shape)
        factor[3, 1] = 2.0
        return upstream * 3.0 * tf.constant(factor, x.dtype)

    return 3.0 * x, gradient


def wrong(y_true, y_pred):
    scores = cubic_instead(y_pred)  # cut
    return tf.reduce_mean(tf.abs(y_true - scores))


def wrong_among_several(y_true, y_pred):
    first = square(y_pred)
    second = cubic_instead(y_pred)  # cut
    return tf.reduce_mean(first + second + y_true)


def wrong_sign(y_true, y_pred):
    return tf.reduce_mean(error_with_sign(y_true, y_pred))  # cut


def wrong_in_one_element(y_true, y_pred):
    return tf.reduce_mean(one_wrong_element(y_pred) * y_true)  # cut


@pytest.mark.parametrize(
    "loss", [wrong, wrong_among_several, wrong_sign, wrong_in_one_element]
)
def test_wrong_gradient(loss):
    """The line of the call, the worst element and both values."""
    (found,) = check_loss(loss, Y, PREDICTION).diagnoses
    assert ("GG251", "wrong", "error") == (
        found.code,
        found.kind,
        found.severity,
    )
    assert marked(loss) == (found.file, found.line)
    assert loss.__name__ == found.loss
    assert "proved" == found.certainty


def test_wrong_gradient_has_its_figures():
    """Three x where it should be two x, worst where x is largest."""
    (found,) = check_loss(wrong, Y, PREDICTION).diagnoses
    element = tuple(found.evidence["element"])
    worst = np.unravel_index(np.abs(PREDICTION).argmax(), PREDICTION.shape)
    assert worst == element
    x = float(PREDICTION[element])
    assert found.evidence["autodiff"] == pytest.approx(3 * x, rel=1e-5)
    assert found.evidence["difference"] == pytest.approx(2 * x, rel=1e-5)
    (found,) = check_loss(wrong_in_one_element, Y, PREDICTION).diagnoses
    assert [3, 1] == found.evidence["element"]
    assert 1 == found.evidence["num_wrong"]


def rounded(y_true, y_pred):
    step = tf.stop_gradient(tf.round(y_pred) - y_pred)  # cut
    return tf.reduce_mean(tf.square(y_true - (y_pred + step)))


def rounded_otherwise(y_true, y_pred):
    base = y_pred - tf.stop_gradient(y_pred)  # cut
    hard = base + tf.stop_gradient(tf.sign(y_pred))
    return tf.reduce_mean(tf.square(y_true - hard))


def hard_and_soft(y_true, y_pred):
    soft = tf.nn.softmax(y_pred)
    hard = tf.one_hot(tf.argmax(soft, -1), 3, dtype=soft.dtype)
    chosen = tf.stop_gradient(hard - soft) + soft  # cut
    return tf.reduce_mean(tf.square(y_true - chosen))


@tf.custom_gradient
def spike(x):
    slope = tf.sigmoid(x)
    return tf.cast(x > 0.0, x.dtype), lambda upstream: upstream * slope


def spiking(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_true - spike(y_pred)))  # cut


def fake_quantised(y_true, y_pred):
    coarse = tf.quantization.fake_quant_with_min_max_args(y_pred)  # cut
    return tf.reduce_mean(tf.square(y_true - coarse))


@pytest.mark.parametrize(
    "loss",
    [rounded, rounded_otherwise, hard_and_soft, spiking, fake_quantised],
)
def test_straight_through_is_a_note(loss):
    """Meant so: named, and nothing is broken."""
    report = check_loss(loss, Y, PREDICTION)
    (found,) = report.diagnoses
    assert ("GG242", "note") == (found.code, found.severity)
    assert marked(loss) == (found.file, found.line)
    assert report.ok


@tf.custom_gradient
def reverse(x):
    return tf.identity(x), lambda upstream: -0.1 * upstream


def adversarial(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_true - reverse(y_pred)))  # cut


def test_changed_identity_is_a_note():
    """A gradient reversal is meant so."""
    report = check_loss(adversarial, Y, PREDICTION)
    (found,) = report.diagnoses
    assert ("GG252", "note") == (found.code, found.severity)
    assert marked(adversarial)[1] == found.line
    assert report.ok


@tf.custom_gradient
def bounded(x):
    return tf.exp(x), lambda upstream: tf.clip_by_value(
        upstream * tf.exp(x), -1.0, 1.0
    )


def clipped_gradient(y_true, y_pred):
    return tf.reduce_sum(tf.square(y_true - bounded(y_pred)))


def right_gradient(y_true, y_pred):
    return tf.reduce_mean(square(y_true - y_pred))


def detached_weight(y_true, y_pred):
    error = tf.abs(y_true - y_pred)
    return tf.reduce_mean(tf.stop_gradient(error) * tf.square(error))


def kinks(y_true, y_pred):
    return tf.reduce_mean(tf.abs(y_pred) + tf.nn.relu(y_pred - 0.5))


def only_single_precision(y_true, y_pred):
    score = tf.sigmoid(5.0 * tf.cast(y_pred, tf.float32))
    y_true = tf.cast(y_true, tf.float32)
    return -tf.reduce_mean(
        y_true * tf.math.log(score + 1e-7)
        + (1.0 - y_true) * tf.math.log(1.0 - score + 1e-7)
    )


def sorted_values(y_true, y_pred):
    return tf.reduce_mean(tf.square(tf.sort(y_true, 0) - tf.sort(y_pred, 0)))


def recomputed(y_true, y_pred):
    return tf.reduce_mean(tf.recompute_grad(tf.sin)(y_pred) - y_true)


def noisy(y_true, y_pred):
    noise = tf.random.normal(tf.shape(y_pred), dtype=y_pred.dtype)
    return tf.reduce_mean(tf.square(y_true - y_pred - noise))


def penalised(y_true, y_pred):
    with tf.GradientTape() as tape:
        tape.watch(y_pred)
        value = tf.reduce_sum(y_pred**3)
    slope = tape.gradient(value, y_pred)
    return tf.reduce_mean(tf.square(y_true - y_pred) + slope**2)


def huber_by_if(y_true, y_pred):
    error = tf.reduce_mean(tf.abs(y_true - y_pred))
    if error < 1.0:
        return 0.5 * error * error
    return error - 0.5


@pytest.mark.parametrize(
    "y_pred",
    [PREDICTION, np.zeros_like(PREDICTION), np.full_like(PREDICTION, 0.5)],
    ids=["normal", "zeros", "halves"],
)
@pytest.mark.parametrize(
    "loss",
    [
        clipped_gradient,
        right_gradient,
        detached_weight,
        kinks,
        only_single_precision,
        sorted_values,
        recomputed,
        noisy,
        penalised,
        huber_by_if,
    ],
)
def test_silent(loss, y_pred):
    """Right gradients, kinks, detached weights, random numbers."""
    assert () == check_loss(loss, Y, y_pred).diagnoses


@pytest.mark.parametrize(
    "y_pred", [PROBABILITIES, Y, np.full_like(Y, 0.5)], ids=["some", "1", "0.5"]
)
@pytest.mark.parametrize(
    "name",
    [
        "mse",
        "mae",
        "mape",
        "msle",
        "huber",
        "log_cosh",
        "hinge",
        "squared_hinge",
        "categorical_hinge",
        "poisson",
        "kl_divergence",
        "binary_crossentropy",
        "categorical_crossentropy",
        "crossentropy",
        "cosine_similarity",
        "binary_focal_crossentropy",
        "categorical_focal_crossentropy",
        "dice",
        "tversky",
    ],
)
def test_keras_losses_are_silent(name, y_pred):
    """What Keras brings is right, also at its kinks and its clipped ends."""
    assert () == check_loss(name, Y, y_pred).diagnoses


@pytest.mark.parametrize(
    "case", [*loss_code.CASES, *losses.CASES], ids=lambda case: case.__name__
)
def test_healthy_losses_are_silent(case):
    """Losses that would catch a careless eye."""
    model, x, y = case()
    y_pred = model.predict(x, verbose=0)
    assert () == check_loss(model.loss, y, y_pred).diagnoses


def jumping(y_true, y_pred):
    error = tf.abs(y_true - y_pred)
    is_far = error > 1.0  # cut
    return tf.reduce_mean(tf.where(is_far, error + 2.0, error), axis=-1)


def cut(y_true, y_pred):
    hard = tf.cast(y_pred > 0.5, tf.float32)  # cut
    return tf.reduce_mean(tf.abs(y_true - tf.cast(hard, y_true.dtype)))


def root(y_true, y_pred):
    return tf.reduce_mean(tf.sqrt(y_pred) - y_true)  # cut


def python_number(y_true, y_pred):
    return float(tf.reduce_mean(y_pred)) + 0.0 * tf.reduce_mean(y_true)  # cut


@pytest.mark.parametrize(
    ("loss", "kind", "severity"),
    [
        (jumping, "discontinuous", "warning"),
        (cut, "disconnected", "error"),
        (root, "nonfinite", "error"),
        (python_number, "untraceable", "error"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda loss: loss, GradGuardLoss])
def test_other_kinds(wrap, loss, kind, severity):
    """One call finds cuts, NaN and jumps as well."""
    report = check_loss(wrap(loss), Y, PREDICTION)
    (found,) = report.diagnoses
    assert (kind, severity) == (found.kind, found.severity)
    assert marked(loss) == (found.file, found.line)
    assert () == report.variables
    assert not report.ok
    assert found.code == json.loads(report.to_json())["diagnoses"][0]["code"]


def clipped_scores(y_true, y_pred):
    """Scores that all lie below what is a probability."""
    share = tf.clip_by_value(y_pred, 1e-7, 1.0 - 1e-7)  # cut
    return -tf.reduce_mean(y_true * tf.math.log(share))


def masked_by_nothing(y_true, y_pred):
    """A mask that no label passes."""
    mask = tf.cast(y_true > 5.0, tf.float32)  # cut
    return 1.0 + tf.reduce_mean(mask * tf.square(y_true - y_pred))


def over_one_unit(y_true, y_pred):
    """Shares of each score by itself."""
    share = tf.nn.softmax(y_pred[..., None])  # cut
    return tf.reduce_mean(tf.square(y_true - share[..., 0]))


@pytest.mark.parametrize(
    ("loss", "code"),
    [
        (clipped_scores, "GG203"),
        (masked_by_nothing, "GG206"),
        (over_one_unit, "GG205"),
    ],
)
def test_gradient_that_is_zero_throughout(loss, code):
    """It is there, and moves no prediction of the batch."""
    y_pred = -2.0 - np.abs(PREDICTION)
    with tf.GradientTape() as tape:
        given = tf.constant(y_pred)
        tape.watch(given)
        value = loss(Y, given)
    assert not np.any(tape.gradient(value, given))
    report = check_loss(loss, Y, y_pred)
    assert not report.ok
    (found,) = [d for d in report.diagnoses if d.severity != "note"]
    assert (code, marked(loss)[1]) == (found.code, found.line)


def test_hinge_that_is_satisfied():
    """The gradient is zero, as it should be."""
    labels = 2.0 * Y - 1.0
    assert check_loss("hinge", labels, 3.0 * labels).ok


def test_half_cut():
    """One of two outputs gets no gradient."""
    skip_on_keras_3_5("takes no dict in a loss that is a function")

    def loss(y_true, y_pred):
        soft = tf.reduce_mean(tf.square(y_true["a"] - y_pred["a"]))
        return soft + tf.reduce_mean(tf.round(y_pred["b"]))

    pair = {"a": PREDICTION, "b": PREDICTION}
    (found,) = check_loss(loss, {"a": Y, "b": Y}, pair).diagnoses
    assert ("GG105", "warning") == (found.code, found.severity)


def by_numpy(y_true, y_pred):
    weight = np.abs(y_true - y_pred)  # cut
    return tf.reduce_mean(weight * tf.square(y_true - y_pred))


def test_part_of_the_value_beside_the_tape():
    """What NumPy made lacks in the gradient; its line is named."""
    (found,) = check_loss(by_numpy, Y, PREDICTION).diagnoses
    assert ("GG101", "warning") == (found.code, found.severity)
    assert marked(by_numpy)[1] == found.line
    assert found.evidence["autodiff"] != found.evidence["difference"]


def test_integer_targets_and_lists():
    """Whatever `fit` takes."""
    labels = Y.argmax(-1)
    name = "sparse_categorical_crossentropy"
    assert check_loss(name, labels, PROBABILITIES).ok
    (found,) = check_loss(wrong, Y.tolist(), PREDICTION.tolist()).diagnoses
    assert 2 == len(found.evidence["element"])
    assert check_loss("mse", Y, (PREDICTION > 0).astype(int)).ok
    logits = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert check_loss(logits, labels, tf.constant(PREDICTION)).ok


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("no_such_loss", Y, Y), "Received: loss='no_such_loss'"),
        ((3, Y, Y), "Received: loss=3"),
        (("mse", None, Y), "Received: y_true with None"),
        (("mse", Y, None), "Received: y_pred with None"),
        (("mse", Y, "text"), "Received: y_pred with dtype"),
        (("mse", Y, []), "Received: y_pred with no values"),
        (("mse", Y[:0], Y[:0]), r"Received: y_true with shape \(0, 3\)"),
    ],
)
def test_arguments_that_cannot_be_used(arguments, text):
    """The error says what was given and what is expected."""
    with pytest.raises(ValueError, match=text):
        check_loss(*arguments)


def test_other_errors_pass():
    """A bug of the loss keeps its own exception."""
    with pytest.raises(ZeroDivisionError):
        check_loss(lambda y_true, y_pred: 1 / 0, Y, PREDICTION)


def test_not_finite_data():
    """A NaN in the prediction is nobody's gradient."""
    (found,) = check_loss("mse", Y, PREDICTION * np.nan).diagnoses
    assert "nonfinite" == found.kind
    assert ["y_pred"] == found.evidence["data"]


def test_random_state_is_left_alone():
    """The random numbers go on as if nothing had been."""
    keras.utils.set_random_seed(3)
    expected = float(tf.random.normal([])), np.random.rand()
    keras.utils.set_random_seed(3)
    check_loss(noisy, Y, PREDICTION)
    assert expected == (float(tf.random.normal([])), np.random.rand())
    assert not tf.config.functions_run_eagerly()


def test_state_is_left_alone():
    """A running mean is where it was, also where a branch moves it."""
    mean, count = tf.Variable(2.0), tf.Variable(5)

    @tf.function
    def remember(value):
        if value > -1.0:
            mean.assign(0.9 * mean + 0.1 * tf.cast(value, tf.float32))

    def loss(y_true, y_pred):
        value = tf.reduce_mean(tf.square(y_true - y_pred))
        count.assign_add(1)
        remember(value)
        return value * tf.cast(mean, value.dtype)

    assert check_loss(loss, Y, PREDICTION).ok
    assert (2.0, 5) == (float(mean), int(count))


def test_difference_that_has_not_settled_says_nothing():
    """A kink or a jump within the step is no wrong gradient."""
    start = [np.zeros(3)]
    for function in (np.abs, np.sign, lambda x: np.sqrt(np.abs(x))):
        wrong = [np.full(3, 0.4)]
        found = mismatch(lambda p, f=function: f(p[0]), start, wrong, True)
        assert found is None
    found = mismatch(lambda p: 2.0 * p[0], start, [np.full(3, 0.4)], True)
    assert (0.4, 3) == (found.automatic, found.num_wrong)
    assert found.difference == pytest.approx(2.0)


def test_custom_gradient_runs_through_the_function_that_is_watched():
    """The frame of TensorFlow's decorator has the names that are read."""
    code = CUSTOM_GRADIENT
    assert {"f", "args", "kwargs"} <= set(code.co_varnames)
