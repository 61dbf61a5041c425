"""Losses that jump where a condition flips, and their healthy twins."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback
from keras_gradguard.backend import loss_evidence
from keras_gradguard.backend.tensorflow.internals.eager import every_op_seen
from keras_gradguard.backend.tensorflow.tracing.graphs import traced_graph
from keras_gradguard.backend.tensorflow.tracing.step import trace_loss
from keras_gradguard.diagnosis.jumps import holds_condition, jump_findings
from keras_gradguard.model.losses import wrapped_loss
from tests.fitting import MODES, NAMES, X, Y, marked, skip_on_keras_3_5

PREDICTION = tf.constant(X[:, :3])
TARGETS = tf.constant(Y)


def found(loss, y_true=TARGETS, y_pred=PREDICTION, name=None, **arguments):
    """The jumps of a loss function or a `Loss`."""
    if not isinstance(loss, keras.losses.Loss):
        loss = wrapped_loss(loss, loss)
    subject = loss_evidence(loss, y_true, y_pred).loss_run()
    return jump_findings(subject, name or loss.name, **arguments)


def where_on_error(y_true, y_pred):
    """Jumps from 1 to 2 at an error of 1."""
    error = tf.abs(y_true - y_pred)
    far = error > 1.0  # cut
    return tf.reduce_mean(tf.where(far, error + 1.0, error), axis=-1)


def cond_on_mean(y_true, y_pred):
    """Two more where the mean is above a limit."""
    value = tf.reduce_mean(tf.square(y_true - y_pred))
    is_high = tf.reduce_mean(y_pred) > 0.1  # cut
    return tf.cond(is_high, lambda: value + 2.0, lambda: value)


@tf.function
def helper(error):
    """AutoGraph makes a conditional of this."""
    if tf.reduce_mean(error) > 0.7:  # cut
        return 3.0 * tf.reduce_mean(error)
    return tf.reduce_mean(error)


def python_if(y_true, y_pred):
    """Ten times the value from 1 on."""
    value = tf.reduce_mean(tf.square(y_true - y_pred))
    if value > 1.0:  # cut
        value = 10.0 * value
    return value


def numpy_if(y_true, y_pred):
    """The condition has left TensorFlow."""
    value = tf.reduce_mean(tf.square(y_true - y_pred))
    if value.numpy() > 1.0:  # cut
        value = value + 4.0
    return value


def numpy_ternary(y_true, y_pred):
    """Both branches stand in one line."""
    value = tf.reduce_mean(tf.square(y_true - y_pred))
    return value + 4.0 if float(value) > 1.0 else value  # cut


def multiplied_mask(y_true, y_pred):
    """No op that selects, only arithmetic."""
    mask = tf.cast(y_pred > 0.5, y_pred.dtype)  # cut
    return tf.reduce_mean(mask * 2.0 + y_true * 0.0 + y_pred, axis=-1)


def two_conditions(y_true, y_pred):
    """A band of predictions costs three more."""
    inside = tf.logical_and(y_pred > 0.2, y_pred < 0.8)  # cut
    return tf.reduce_mean(tf.where(inside, 3.0 + y_pred, y_pred), axis=-1)


def per_sample(y_true, y_pred):
    """Far samples count twice: 1.5 more at a distance of 1.5."""
    distance = tf.norm(y_true - y_pred, axis=-1)
    return tf.where(distance > 1.5, 2.0 * distance, distance)  # cut


def right_class(y_true, y_pred):
    """The condition has no numbers that a gradient could pass."""
    value = tf.reduce_mean(tf.square(y_true - y_pred), axis=-1)
    is_right = tf.argmax(y_pred, -1) == tf.argmax(y_true, -1)  # cut
    return tf.where(is_right, value, value + 5.0)


def keras_cond(y_true, y_pred):
    """The operations of Keras."""
    value = keras.ops.mean(keras.ops.square(y_true - y_pred))
    is_high = keras.ops.mean(y_pred) > 0.1  # cut
    return keras.ops.cond(is_high, lambda: value, lambda: value + 6.0)


def case(y_true, y_pred):
    """One of two functions."""
    value = tf.reduce_mean(tf.square(y_true - y_pred))
    is_high = tf.reduce_mean(y_pred) > 0.1  # cut
    return tf.case([(is_high, lambda: value + 7.0)], default=lambda: value)


def in_loop(y_true, y_pred):
    """The condition stands in the body of a loop."""

    def body(n, total):
        column = y_pred[:, n]
        high = column > 0.4  # cut
        cost = tf.where(high, column + 2.0, column)
        return n + 1, total + tf.reduce_mean(cost)

    start = (tf.constant(0), tf.zeros((), y_pred.dtype))
    return tf.while_loop(lambda n, _: n < 3, body, start)[1]


def single_precision(y_true, y_pred):
    """Float32 constants forbid float64."""
    high = y_pred > tf.constant(0.5)  # cut
    cost = tf.where(high, tf.constant(2.0) + y_pred, y_pred)
    return tf.reduce_mean(cost, axis=-1)


def after_continuous_twin(y_true, y_pred):
    """Two lines ask the same; only one of them jumps."""
    leaky = tf.where(y_pred > 0.0, y_pred, 0.01 * y_pred)
    step = tf.cast(y_pred > 0.0, y_pred.dtype)  # cut
    return tf.reduce_mean(leaky + step, axis=-1)


def paired_masks(y_true, y_pred):
    """What one mask leaves the other takes: one jump, not two."""
    positive = tf.cast(y_pred > 0.0, y_pred.dtype)  # cut
    negative = tf.cast(y_pred <= 0.0, y_pred.dtype)
    value = positive * (y_pred + 2.0) + negative * (y_pred - 1.0)
    return tf.reduce_mean(value, axis=-1)


class Far(keras.losses.Loss):
    """A subclass with a limit of its own."""

    def call(self, y_true, y_pred):
        """Five more from an error of 1 on."""
        error = tf.abs(y_true - y_pred)
        return tf.where(error >= 1.0, error + 5.0, error)  # cut


def sign_as_factor(y_true, y_pred):
    """The wrong direction costs three times as much, once: 2 at a mean of 0."""
    drift = tf.reduce_mean(y_pred)
    return (1.0 + drift**2) * (2.0 - tf.sign(drift + 0.0))  # cut


def rounded_factor(y_true, y_pred):
    """A price for each whole unit; half a unit off it is rounded up."""
    size = tf.abs(y_pred)
    return tf.reduce_max(size) * tf.round(tf.reduce_max(size))  # cut


def floor_of_mean(y_true, y_pred):
    """Three for each whole unit of the mean."""
    mean = tf.reduce_mean(y_pred)
    return tf.square(mean) + 3.0 * tf.floor(mean)  # cut


def hand_made_huber(y_true, y_pred):
    """The linear side is a quarter too high at an error of 1."""
    error = tf.abs(y_true - y_pred)
    near = error < 1.0  # cut
    value = tf.where(near, 0.5 * error**2, error - 0.25)
    return tf.reduce_mean(value, axis=-1)


JUMPS = [
    (sign_as_factor, "Sign", 2.0),
    (floor_of_mean, "Floor", 3.0),
    (hand_made_huber, "Less", 0.25),
    (where_on_error, "Greater", 1.0),
    (cond_on_mean, "Greater", 2.0),
    (python_if, "Greater", 9.0),
    (numpy_if, None, 4.0),
    (numpy_ternary, None, 4.0),
    (multiplied_mask, "Greater", 2.0),
    (per_sample, "Greater", 1.5),
    (right_class, "Equal", 5.0),
    (keras_cond, "Greater", 6.0),
    (case, "Greater", 7.0),
    (in_loop, "Greater", 2.0),
    (single_precision, "Greater", 2.0),
    (after_continuous_twin, "Greater", 1.0),
    (paired_masks, "Greater", 3.0),
]


@pytest.mark.parametrize(("loss", "op", "height"), JUMPS)
def test_jump_is_measured_at_its_line(loss, op, height):
    """Line, op and height, the latter worked out by hand."""
    (finding,) = found(loss)
    assert "discontinuous" == finding.kind
    is_step = op in ("Sign", "Floor")
    assert ("step_function" if is_step else "jump") == finding.cause
    assert marked(loss) == (finding.place.file, finding.place.line)
    assert op == finding.op
    assert loss.__name__ == finding.loss
    assert finding.evidence["jump"] == pytest.approx(height, rel=1e-3)
    assert "proved" == finding.certainty


def test_the_height_of_a_product():
    """By hand: 0.5 at a half, or 1.5 at one and a half."""
    (finding,) = found(rounded_factor)
    assert marked(rounded_factor)[1] == finding.place.line
    height = finding.evidence["jump"]
    assert height == pytest.approx(round(2 * height) / 2, rel=1e-4)
    assert round(2 * height) % 2 == 1


def test_both_edges_of_a_band():
    """Either condition of a conjunction jumps."""
    one, other = found(two_conditions)
    assert ["Greater", "Less"] == [one.op, other.op]
    for finding in (one, other):
        assert marked(two_conditions)[1] == finding.place.line
        assert finding.evidence["jump"] == pytest.approx(3.0)


def test_in_a_tf_function():
    """The line is inside the helper, not where it is called."""
    (finding,) = found(lambda y_true, y_pred: helper(tf.abs(y_true - y_pred)))
    assert marked(helper.python_function)[1] == finding.place.line
    assert finding.evidence["jump"] == pytest.approx(2 * 0.7, rel=1e-4)


def test_subclass():
    """The jump is that of a `Loss`."""
    (finding,) = found(Far(name="far"), name="head")
    assert "head" == finding.loss
    assert finding.evidence["jump"] == pytest.approx(5.0)


def test_dict():
    """A loss of several outputs, one of which jumps."""
    skip_on_keras_3_5("takes no dict in a loss that is a function")

    def loss(y_true, y_pred):
        smooth = tf.reduce_mean(tf.square(y_true["a"] - y_pred["a"]), axis=-1)
        high = y_pred["b"] > 0.3
        rough = tf.where(high, y_pred["b"] + 1.0, y_pred["b"])
        return smooth + tf.reduce_mean(rough, axis=-1)

    pair = {"a": PREDICTION, "b": PREDICTION}
    (finding,) = found(loss, {"a": TARGETS, "b": TARGETS}, pair)
    assert finding.evidence["jump"] == pytest.approx(1.0)


def huber(y_true, y_pred):
    error = y_true - y_pred
    size = tf.abs(error)
    value = tf.where(size <= 1.0, 0.5 * error * error, size - 0.5)
    return tf.reduce_mean(value, axis=-1)


def smooth_by_cond(y_true, y_pred):
    error = tf.reduce_mean(tf.abs(y_true - y_pred))
    return tf.cond(error < 1.0, lambda: 0.5 * error**2, lambda: error - 0.5)


def huber_by_if(y_true, y_pred):
    error = tf.reduce_mean(tf.abs(y_true - y_pred))
    if error < 1.0:
        return 0.5 * error * error
    return error - 0.5


def leaky(y_true, y_pred):
    activated = y_pred * tf.where(y_pred > 0.0, 1.0, 0.01)
    return tf.reduce_mean(tf.square(y_true - activated), axis=-1)


def masked_hinge(y_true, y_pred):
    margin = 1.0 - (2.0 * y_true - 1.0) * y_pred
    return tf.reduce_mean(margin * tf.cast(margin > 0.0, y_pred.dtype))


def pinball(y_true, y_pred):
    error = y_true - y_pred
    return tf.reduce_mean(tf.where(error >= 0.0, 0.9 * error, -0.1 * error))


def guarded_entropy(y_true, y_pred):
    share = tf.nn.relu(y_pred)
    return tf.reduce_mean(
        tf.where(share > 0.0, share * tf.math.log(share + 1e-30), 0.0)
    )


def series_near_zero(y_true, y_pred):
    near = tf.abs(y_pred) < 1e-4
    return tf.reduce_mean(
        tf.where(near, 1.0 - y_pred**2 / 6.0, tf.sin(y_pred) / y_pred)
    )


def clipped(y_true, y_pred):
    return tf.reduce_mean(tf.clip_by_value(y_pred, -0.5, 0.5) * y_true)


def on_labels(y_true, y_pred):
    error = y_true - y_pred
    return tf.reduce_mean(tf.where(y_true > 0.5, 3.0 * error**2, abs(error)))


def stopped_weight(y_true, y_pred):
    error = tf.abs(y_true - y_pred)
    weight = tf.stop_gradient(tf.cast(error > 0.5, y_pred.dtype) + 1.0)
    return tf.reduce_mean(weight * tf.square(error))


def straight_through(y_true, y_pred):
    hard = tf.cast(y_pred > 0.5, y_pred.dtype)
    value = y_pred + tf.stop_gradient(hard - y_pred)
    return tf.reduce_mean(tf.square(y_true - value))


@tf.custom_gradient
def spike(x):
    return tf.cast(x > 0.0, x.dtype), lambda upstream: upstream


def own_gradient(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_true - spike(y_pred)))


def signed_log(y_true, y_pred):
    """The sign of a number that is zero where it changes."""
    size = tf.sign(y_pred) * tf.math.log1p(tf.abs(y_pred))
    return tf.reduce_mean(tf.square(y_true - size), axis=-1)


def asymmetric(y_true, y_pred):
    """Two parabolas that meet."""
    error = y_true - y_pred
    return tf.reduce_mean(tf.square(error) * tf.square(tf.sign(error) + 0.5))


def size_by_sign(y_true, y_pred):
    """An absolute error, written out."""
    error = y_true - y_pred
    return tf.reduce_mean(error * tf.sign(error), axis=-1)


def wrapped_angle(y_true, y_pred):
    """The way round a circle is as long on either side."""
    error = y_true - 9.0 * y_pred
    error -= 6.0 * tf.round(error / 6.0)
    return tf.reduce_mean(tf.square(error), axis=-1)


def triangle_wave(y_true, y_pred):
    """The distance to the nearest whole number."""
    return tf.reduce_mean(tf.abs(4.0 * y_pred - tf.floor(4.0 * y_pred + 0.5)))


def sign_of_targets(y_true, y_pred):
    """A margin that the labels set."""
    margin = 1.0 - tf.sign(y_true - 0.5) * y_pred
    return tf.reduce_mean(tf.nn.relu(margin) * tf.round(2.0 + y_true))


def stopped_step(y_true, y_pred):
    """Weights that are meant to be constant."""
    weight = tf.stop_gradient(2.0 - tf.sign(y_true * y_pred))
    return tf.reduce_mean(weight * tf.square(y_true - y_pred))


def rounded_straight_through(y_true, y_pred):
    """Quantized on purpose."""
    level = y_pred + tf.stop_gradient(tf.round(4.0 * y_pred) / 4.0 - y_pred)
    return tf.reduce_mean(tf.square(y_true - level))


def only_a_sign(y_true, y_pred):
    """It has no gradient at all, which GG202 says."""
    return tf.reduce_mean(tf.square(y_true - tf.sign(y_pred)))


def gradient_of_size(y_true, y_pred):
    """The derivative of `abs` is a sign, where the tape has put it."""
    with tf.GradientTape() as tape:
        tape.watch(y_pred)
        value = tf.reduce_sum(tf.abs(y_pred) ** 3)
    slope = tape.gradient(value, y_pred)
    return tf.reduce_mean(tf.square(slope)) + tf.reduce_mean(y_pred * y_true)


def noisy_sign(y_true, y_pred):
    """Random numbers: no function of the prediction."""
    noise = tf.sign(y_pred + tf.random.normal(tf.shape(y_pred)))
    return tf.reduce_mean(tf.square(y_true - y_pred) * (2.0 - noise))


def dropout(y_true, y_pred):
    kept = tf.random.uniform(tf.shape(y_pred)) > 0.5
    return tf.reduce_mean(tf.where(kept, y_pred, 0.0))


def all_cut(y_true, y_pred):
    return tf.reduce_mean(tf.cast(y_pred > 0.5, tf.float32))


def only_asked(y_true, y_pred):
    tf.debugging.assert_less(tf.reduce_max(y_pred), 1e6)
    tf.cast(y_pred > 0.5, tf.float32)
    return tf.reduce_mean(tf.square(y_true - y_pred))


def fails(y_true, y_pred):
    raise RuntimeError("not today")


@pytest.mark.parametrize(
    "loss",
    [
        huber,
        smooth_by_cond,
        huber_by_if,
        leaky,
        masked_hinge,
        pinball,
        guarded_entropy,
        series_near_zero,
        clipped,
        on_labels,
        stopped_weight,
        straight_through,
        own_gradient,
        signed_log,
        asymmetric,
        size_by_sign,
        wrapped_angle,
        triangle_wave,
        sign_of_targets,
        stopped_step,
        rounded_straight_through,
        only_a_sign,
        gradient_of_size,
        noisy_sign,
        dropout,
        all_cut,
        only_asked,
        fails,
    ],
)
def test_silent(loss):
    """Both sides agree, the jump is meant, or another rule says it."""
    assert [] == found(loss)


def test_state_is_left_alone():
    """A loss that counts its calls is not run at all."""
    calls = tf.Variable(0.0)

    def loss(y_true, y_pred):
        calls.assign_add(1.0)
        return tf.where(y_pred > 0.5, y_pred + 1.0, y_pred)

    assert [] == found(loss)
    assert 0.0 == float(calls)


def test_random_state_is_left_alone():
    """The random numbers go on as if nothing had been."""
    keras.utils.set_random_seed(3)
    expected = float(tf.random.uniform([])), np.random.rand()
    keras.utils.set_random_seed(3)
    found(dropout)
    found(where_on_error)
    assert expected == (float(tf.random.uniform([])), np.random.rand())


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (where_on_error, True),
        (cond_on_mean, True),
        (lambda y_true, y_pred: helper(y_pred), True),
        (sign_as_factor, True),
        (signed_log, True),
        (keras.losses.Huber(), False),
        (keras.losses.CategoricalCrossentropy(), False),
        (clipped, False),
    ],
)
def test_graph_tells_whether_it_is_worth_looking(loss, expected):
    """Healthy models pay for one walk over their graph."""
    if not isinstance(loss, keras.losses.Loss):
        loss = wrapped_loss(loss, loss)
    trace = trace_loss(loss, TARGETS, PREDICTION)
    assert expected == holds_condition(traced_graph(trace.graph))


def test_outputs_can_be_replaced_eagerly():
    """TensorFlow goes on with what an op callback puts into its list."""

    def see(op_type, inputs, attributes, outputs):
        if op_type == "Greater":
            outputs[0] = tf.constant([True, True])

    with every_op_seen(see):
        value = tf.where(tf.constant([1.0, -1.0]) > 0.0, 1.0, 0.0)
    assert [1.0, 1.0] == value.numpy().tolist()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("loss", [sign_as_factor, where_on_error])
def test_a_card_names_what_the_loss_trains(loss, eager):
    """Of two outputs, the one with the loss that jumps, and what is shared."""
    inputs = keras.Input((4,))
    shared = keras.layers.Dense(8, "tanh", name="shared")(inputs)
    outputs = {
        name: keras.layers.Dense(3, name=name)(shared)
        for name in ("plain", "rough")
    }
    model = keras.Model(inputs, outputs)
    losses = {"plain": "mse", "rough": loss}
    model.compile("sgd", losses, run_eagerly=eager)
    guard = GradHealthCallback(every=1)
    targets = {"plain": Y, "rough": Y}
    model.fit(X, targets, batch_size=16, verbose=0, callbacks=[guard])
    (diagnosis,) = guard.report.diagnoses
    assert marked(loss)[1] == diagnosis.line
    expected = {v.path for v in model.trainable_variables}
    expected -= {v.path for v in model.get_layer("plain").variables}
    assert expected == set(diagnosis.variables)
