"""Gradients that are there and useless: zero, fading, exploding, unused."""

import csv
import math
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback, GradientBreakError
from keras_gradguard.measure.figures import figures_of
from keras_gradguard.measure.trends import Trends
from keras_gradguard.thresholds import PRESETS, Thresholds, thresholds_of
from tests.fitting import MODES, NAMES, X, Y, classifier, fit, marked
from tests.plain import alone


def sign(y_true, y_pred):
    """The slope of a sign is zero."""
    return tf.reduce_mean(tf.square(y_true - tf.sign(y_pred)))  # cut


def clipped(y_true, y_pred):
    """Every prediction is below the range."""
    kept = tf.clip_by_value(y_pred, 50.0, 60.0)  # cut
    return tf.reduce_mean(tf.square(y_true - kept))


def dead(y_true, y_pred):
    """A ReLU that nothing passes, and the loss wants more."""
    return tf.reduce_mean(tf.square(y_true - tf.nn.relu(y_pred - 99.0)))  # cut


def saturated(y_true, y_pred):
    """A sigmoid at its wrong end."""
    end = tf.sigmoid(y_pred + 99.0)  # cut
    return tf.reduce_mean(tf.square(y_true - 2.0 - end))


def almost_saturated(y_true, y_pred):
    """A sigmoid whose slope is no zero, and moves no weight."""
    end = tf.sigmoid(y_pred - 75.0)  # cut
    return tf.reduce_mean(tf.square(y_true + 2.0 - end))


def masked(y_true, y_pred):
    """A mask of zeros."""
    return tf.reduce_mean(tf.square(y_true - y_pred) * 0.0 * y_true)  # cut


def constant(y_true, y_pred):
    """The prediction cancels."""
    return tf.reduce_mean(tf.square(y_true - (y_pred - y_pred)))  # cut


def sum_of_softmax(y_true, y_pred):
    """It is 1 but for rounding."""
    chances = tf.nn.softmax(y_pred)  # cut
    return tf.reduce_mean(tf.square(2.0 - tf.reduce_sum(chances, axis=-1)))


def sum_that_is_one(y_true, y_pred):
    """Worth nothing, whatever is predicted."""
    chances = tf.nn.softmax(y_pred)  # cut
    return tf.reduce_mean(tf.square(1.0 - tf.reduce_sum(chances, axis=-1)))


def never_chosen(y_true, y_pred):
    """The other side of tf.where holds for the whole batch."""
    return tf.reduce_mean(tf.where(y_pred > 99.0, y_pred, 1.0))  # cut


def masked_elsewhere(y_true, y_pred):
    """The mask becomes zero before the line that multiplies by it."""
    mask = y_true // 255.0  # cut
    error = tf.square(y_true - y_pred)
    return tf.reduce_sum(mask * error) / (tf.reduce_sum(mask) + 1e-7)


def masked_by_integers(y_true, y_pred):
    """The cast to integers makes the mask zero."""
    share = tf.sigmoid(y_pred)
    mask = tf.cast(share, tf.int32)  # cut
    weight = tf.cast(mask, tf.float32)
    return tf.reduce_sum(weight * tf.square(y_true - y_pred)) + 1.0


def area(y_true, y_pred):
    """Each side of the overlap is cut off at zero."""
    sides = tf.maximum(y_pred - y_true - 99.0, 0.0)  # cut
    return 1.0 - tf.reduce_mean(tf.reduce_prod(sides, axis=-1))


ZERO = {
    masked_elsewhere: "GG206",
    masked_by_integers: "GG206",
    area: "GG201",
    sign: "GG202",
    clipped: "GG203",
    dead: "GG201",
    saturated: "GG204",
    almost_saturated: "GG204",
    masked: "GG206",
    constant: "GG209",
    sum_of_softmax: "GG209",
    sum_that_is_one: "GG209",
    never_chosen: "GG210",
}


# Their zero is one of rounding, of which one record says nothing.
ROUNDED = (almost_saturated, sum_of_softmax, sum_that_is_one)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("loss", ZERO, ids=lambda loss: loss.__name__)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_zero(loss, eager):
    """Cause and line, all variables; what data may change takes patience."""
    callback = GradHealthCallback(every=1)
    model = classifier(loss, eager)
    model.fit(X, Y, verbose=0, epochs=4, batch_size=16, callbacks=[callback])
    early = [d for d in callback.report.diagnoses if d.kind == "zero"]
    assert all(
        ("error", "proved") == (d.severity, d.certainty)
        if loss in (sign, constant)
        else ("note", "suspected") == (d.severity, d.certainty)
        for d in early
    )
    assert early or loss in ROUNDED
    model.fit(X, Y, verbose=0, epochs=6, batch_size=16, callbacks=[callback])
    (found,) = [d for d in callback.report.diagnoses if d.kind == "zero"]
    assert (ZERO[loss], "error") == (found.code, found.severity)
    assert marked(loss) == (found.file, found.line)
    assert 4 == len(found.variables)


def satisfied_hinge(y_true, y_pred):
    """Every margin is kept: nothing is left to learn."""
    return tf.reduce_mean(tf.nn.relu(1.0 - (y_pred + 1000.0)))


def satisfied_pairs(y_true, y_pred):
    """The same, by tf.maximum."""
    return tf.reduce_mean(tf.maximum(0.0, -1000.0 - y_pred))


def right_and_certain(y_true, y_pred):
    """Right probabilities of exactly 1 and 0."""
    chance = tf.sigmoid(1e4 * (2.0 * y_true - 1.0) + 0.0 * y_pred)
    return keras.losses.binary_crossentropy(y_true, chance)


def certain_logits(y_true, y_pred):
    """Logits so large that the terms of a cross-entropy cancel."""
    large = y_pred + 60.0 * (2.0 * y_true - 1.0)
    return keras.losses.binary_crossentropy(y_true, large, from_logits=True)


def certain_margin(y_true, y_pred):
    """A margin that leaves a slope of 1e-26, and nothing to learn."""
    return tf.reduce_mean(tf.nn.softplus(-60.0 - y_pred + 0.0 * y_true))


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize(
    "loss",
    [satisfied_hinge, satisfied_pairs, certain_logits, certain_margin],
    ids=lambda loss: loss.__name__,
)
def test_zero_that_is_as_it_should_be(loss, eager):
    """A loss that is satisfied has no slope, and no fault."""
    callback = GradHealthCallback(every=1)
    model = classifier(loss, eager)
    model.fit(X, Y, verbose=0, epochs=8, batch_size=16, callbacks=[callback])
    assert () == callback.report.diagnoses


def test_fit_that_has_settled():
    """A gradient of 1e-7 at the minimum is no constant loss."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    callback = GradHealthCallback(every=4)
    y = X[:, :1] * 0.5 + 0.1
    model.fit(X, y, verbose=0, epochs=400, batch_size=16, callbacks=[callback])
    assert callback.report.global_norm < 1e-5
    assert () == callback.report.diagnoses


class Critic(keras.Model):
    """The difference of two scores: its bias cancels."""

    def __init__(self):
        super().__init__()
        self.score = keras.layers.Dense(1, name="score")

    def call(self, x):
        """Scores a batch against itself, reversed in one feature."""
        other = x * [-1.0, 1.0, 1.0, 1.0]
        return self.score(x) - self.score(other)


def test_bias_that_cancels():
    """As in a Wasserstein critic or a ranking loss: no fault."""
    model = Critic()
    model(X)
    model.compile("sgd", lambda y, p: -tf.reduce_mean(p))
    callback = GradHealthCallback(every=1)
    model.fit(X, Y, verbose=0, epochs=8, batch_size=16, callbacks=[callback])
    assert 0.0 == callback.report.variables[1].norm
    assert () == callback.report.diagnoses


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_dead_layer_is_one_message():
    """The layer behind it, which gets only zeros, is named along with it."""
    model = classifier("mse", middle=keras.layers.ReLU(name="gate"))
    model.get_layer("hidden").bias.assign(np.full(8, -99.0, "float32"))
    callback = GradHealthCallback(every=1)
    model.fit(X, Y, verbose=0, epochs=8, batch_size=16, callbacks=[callback])
    (found,) = callback.report.diagnoses
    assert "GG201" == found.code
    assert found.layer.endswith("gate")
    expected = ("net/hidden/kernel", "net/hidden/bias", "net/head/kernel")
    assert expected == found.variables


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "weight, inputs, code",
    [(-1.0, 1.0, "GG201"), (0.0, 1.0, "GG208"), (1.0, 0.0, "GG211")],
    ids=["dead", "zero-weights", "zero-input"],
)
def test_zeros_are_traced_to_where_they_begin(weight, inputs, code):
    """A ReLU behind a layer without output is as flat, and not the cause."""
    network = [keras.Input((4,))]
    for name in ("first", "second", "third"):
        fill = keras.initializers.Constant(weight if name == "first" else 1.0)
        network.append(
            keras.layers.Dense(
                4, activation="relu", kernel_initializer=fill, name=name
            )
        )
    model = keras.Sequential(network, name="net")
    model.compile("sgd", "mae")
    callback = GradHealthCallback(every=1)
    x, y = np.full((8, 4), inputs, "float32"), np.ones((8, 4), "float32")
    model.fit(x, y, verbose=0, epochs=8, callbacks=[callback])
    (found,) = callback.report.diagnoses
    assert (code, "net/first") == (found.code, found.layer)
    assert 6 == len(found.variables)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_fading_is_named_where_it_begins():
    """A saturated layer, and not those before it that get what it leaves."""
    keras.utils.set_random_seed(0)
    high = keras.initializers.Constant(14.0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="relu", name="first"),
            keras.layers.Dense(8, activation="relu", name="second"),
            keras.layers.Dense(  # cut
                8, "sigmoid", bias_initializer=high, name="squashed"
            ),
            keras.layers.Dense(3, name="last"),
        ]
    )
    model.compile("sgd", "mse")
    callback = GradHealthCallback(every=1)
    data = {"epochs": 6, "batch_size": 16, "verbose": 0}
    # The code of another test may have made such a layer, too.
    with alone(sys.modules[__name__]):
        model.fit(X, Y, callbacks=[callback], **data)
    (found,) = callback.report.diagnoses
    assert "vanishing" == found.kind
    assert found.layer.endswith("squashed")
    line = marked(test_fading_is_named_where_it_begins)
    assert line == (found.file, found.line)
    assert 6 == len(found.variables)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("rate, since", [(100.0, 6), (0.01, None)])
def test_relu_that_dies_has_a_step(rate, since):
    """One long step in epoch 5; a twin is dead from the start."""
    keras.utils.set_random_seed(1)
    bias = keras.initializers.Constant(1.0 if since else -99.0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(
                3, activation="relu", bias_initializer=bias, name="last"
            ),
        ]
    )
    model.compile(keras.optimizers.SGD(0.01), "mse")
    long = keras.callbacks.LearningRateScheduler(
        lambda epoch: rate if epoch == 5 else 0.01
    )
    callback = GradHealthCallback(every=1)
    arguments = {"verbose": 0, "epochs": 12, "batch_size": 16}
    model.fit(0.01 * X, Y, callbacks=[long, callback], **arguments)
    (found,) = [d for d in callback.report.diagnoses if d.code == "GG201"]
    assert since == found.evidence.get("since_step")
    notes = " ".join(found.evidence.get("notes", ()))
    assert ("since step 6" in notes) == (since is not None)
    texts = [item.text for item in found.help]
    assert any("learning rate" in text for text in texts) == bool(since)


def record(**norms):
    """One record of layers, given by the norm of their kernels."""
    paths = [f"{layer}/kernel" for layer in norms]
    return figures_of(paths, statistics_of(norms.values()))


def statistics_of(norms):
    """Statistics of gradients with these norms, as the step gives them."""
    return np.array([[n, n, n / 10, 0.0, 0.0] for n in norms], "float32")


def test_fading_needs_level_ratio_and_patience():
    """Only a layer far below the later ones, for the whole patience."""
    trends = Trends(Thresholds(patience=3))
    for _ in range(2):
        trends.add(record(first=1e-7, middle=1e-3, last=1.0))
        assert [] == trends.symptoms()
    trends.add(record(first=1e-7, middle=1e-3, last=1.0))
    (sign_found,) = trends.symptoms()
    assert ("first/kernel",) == sign_found.paths
    assert 1e-7 == pytest.approx(sign_found.evidence["ratio"])
    for norms in (
        {"first": 1e-9, "last": 1e-8},  # everything has settled
        {"first": 1e-2, "last": 1.0},
        {"first": 1.0, "last": 1e-9},
    ):
        trends = Trends(Thresholds(patience=3))
        for _ in range(4):
            trends.add(record(**norms))
        assert [] == trends.symptoms()


def test_one_bad_batch_and_a_recovery_are_no_fading():
    """A gap in the row, or a gradient that comes to life."""
    trends = Trends(Thresholds(patience=3))
    for first in (1e-8, 1e-8, 1.0, 1e-8, 1e-8):
        trends.add(record(first=first, last=1.0))
        assert [] == trends.symptoms()
    trends = Trends(Thresholds(patience=3))
    for first in (1e-10, 1e-9, 1e-8, 1e-7):
        trends.add(record(first=first, last=1.0))
        assert [] == trends.symptoms()


def test_a_bias_alone_does_not_fade():
    """The key bias of attention has no effect in exact arithmetic."""
    trends = Trends(Thresholds(patience=2))
    for _ in range(4):
        paths = ["key/kernel", "key/bias", "head/kernel"]
        trends.add(figures_of(paths, statistics_of([1.0, 1e-9, 1.0])))
    assert [] == trends.symptoms()


def test_exploding_needs_level_and_growth():
    """Large alone is a matter of units."""
    trends = Trends(Thresholds(patience=3))
    for _ in range(4):
        trends.add(record(first=1e9, last=1e9))
    assert [] == trends.symptoms()
    for factor in (1e8, 1e9, 1e10):
        trends.add(record(first=factor, last=factor))
    (found,) = trends.symptoms()
    assert ("first/kernel", "last/kernel") == found.paths
    assert math.inf > found.evidence["mean"] > 1e6


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_deep_sigmoid_network_fades(eager):
    """Twelve sigmoid layers: the first ones, and none of the last."""
    keras.utils.set_random_seed(0)
    hidden = [
        keras.layers.Dense(8, activation="sigmoid", name=f"hidden_{number}")
        for number in range(12)
    ]
    model = keras.Sequential(
        [keras.Input((4,)), *hidden, keras.layers.Dense(3, name="end")]
    )
    model.compile("sgd", "mse", run_eagerly=eager)
    callback = GradHealthCallback(every=1)
    model.fit(X, Y, verbose=0, epochs=6, batch_size=16, callbacks=[callback])
    (found,) = callback.report.diagnoses
    assert ("GG231", "vanishing") == (found.code, found.kind)
    names = " ".join(found.variables)
    assert "hidden_0/" in names
    assert "end/" not in names
    assert "hidden_11/" not in names


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_presets_and_figures():
    """A preset by name, figures on top of it, and what is refused."""
    assert PRESETS["deepchecker"] is thresholds_of("deepchecker")
    assert 2 == thresholds_of({"patience": 2}).patience
    mixed = thresholds_of({"preset": "sagemaker", "vanishing_mean": None})
    assert (1, None) == (mixed.patience, mixed.vanishing_mean)
    for wrong, text in (
        ("pytorch", "default, sagemaker, autotrainer, deepchecker"),
        ({"patiense": 3}, "did you mean 'patience'"),
        ({"patience": 0}, "must be a positive integer"),
        ({"exploding_mean": "big"}, "must be a non-negative number"),
        (7, "name of a preset or a dict"),
    ):
        with pytest.raises(ValueError, match=text):
            GradHealthCallback(thresholds=wrong)


class Still(keras.callbacks.Callback):
    """Sets the learning rate to zero from the second epoch on."""

    def on_epoch_begin(self, epoch, logs=None):
        """Stops all movement."""
        if epoch == 1:
            self.model.optimizer.learning_rate = 0.0


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_learning_rate_of_zero(eager):
    """All weights stand still, and each gets a gradient."""
    callback = GradHealthCallback(every=1)
    model = classifier("mse", eager)
    model.fit(
        *(X, Y),
        verbose=0,
        epochs=9,
        batch_size=16,
        callbacks=[callback, Still()],
    )
    (found,) = callback.report.diagnoses
    assert ("GG311", "not_applied") == (found.code, found.kind)
    assert 4 == len(found.variables)
    assert {0.0} == {r.update_ratio for r in callback.report.variables}


def test_accumulated_gradients_are_applied():
    """A weight that moves every fourth step does move."""
    model = classifier("mse")
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=4)
    model.compile(optimizer, "mse")
    callback = GradHealthCallback(every=1)
    model.fit(X, Y, verbose=0, epochs=24, batch_size=16, callbacks=[callback])
    assert () == callback.report.diagnoses


def test_accumulated_rows_are_applied():
    """The rows of an embedding do too, where no record is of that step."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            keras.layers.Embedding(50, 8),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(1),
        ]
    )
    optimizer = keras.optimizers.Adam(gradient_accumulation_steps=4)
    model.compile(optimizer, "mse")
    words = np.random.default_rng(3).integers(50, size=(16, 6))
    callback = GradHealthCallback(every=4)
    model.fit(
        *(words, np.ones((16, 1))),
        verbose=0,
        epochs=24,
        batch_size=4,
        callbacks=[callback],
    )
    assert () == callback.report.diagnoses


@pytest.mark.parametrize(
    "rate, dtype, codes",
    [
        (0.1, "float32", set()),
        (1e-12, "float32", {"GG311"}),
        (1e-4, "bfloat16", {"GG315"}),
    ],
)
def test_few_of_many_elements_move(rate, dtype, codes):
    """What is sampled of a large weight proves nothing by itself."""
    keras.utils.set_random_seed(3)
    states = 20_000
    model = keras.Sequential(
        [
            keras.Input((1,), dtype="int32"),
            keras.layers.CategoryEncoding(states, output_mode="one_hot"),
            keras.layers.Dense(
                1, kernel_initializer="ones", use_bias=False, dtype=dtype
            ),
        ]
    )
    model.compile(keras.optimizers.SGD(rate), "mse")
    callback = GradHealthCallback(every=1)
    x = 1 + 7 * np.arange(12)[:, None]
    model.fit(
        *(x, np.zeros((12, 1))),
        verbose=0,
        batch_size=1,
        callbacks=[callback],
    )
    assert codes == {found.code for found in callback.report.diagnoses}


def of_objects(y_true, y_pred):
    """The third column counts only where there is an object."""
    error = tf.square(y_true - y_pred)
    return tf.reduce_sum(error[:, :2], -1) + y_true[:, 0] * error[:, 2]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("period", [2, 5, None])
def test_zero_at_each_record_alone(period):
    """Batches that alternate are seen in between before a zero is told."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((4,))
    heads = [keras.layers.Dense(n, name=f"head{n}")(inputs) for n in (2, 1)]
    model = keras.Model(inputs, keras.layers.Concatenate()(heads))
    model.compile("sgd", of_objects)
    x, y = np.ones((280, 4)), np.ones((280, 3))
    number = np.arange(280) // 4
    y[:, 0] = 0.0 if period is None else number % period == 1
    callback = GradHealthCallback(every=10)
    model.fit(
        *(x, y),
        batch_size=4,
        shuffle=False,
        verbose=0,
        callbacks=[callback],
    )
    found = [d for d in callback.report.diagnoses if d.severity != "note"]
    assert bool(found) == (period is None)
    hit = {path for d in found for path in d.variables}
    assert hit == (set() if period else {"head1/kernel", "head1/bias"})


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_numbers_of_each_variable(eager):
    """An independent tape and NumPy say the same."""
    keras.utils.set_random_seed(3)
    model = classifier("mse", eager)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(X) - Y))
    gradients = tape.gradient(loss, [v.value for v in model.weights])
    before = [v.numpy().copy() for v in model.weights]
    callback, _ = fit(model)
    rows = callback.report.variables
    for row, gradient, old, variable in zip(
        rows, gradients, before, model.weights, strict=True
    ):
        values = np.abs(gradient.numpy())
        assert row.norm == pytest.approx(np.linalg.norm(values), rel=1e-5)
        assert row.largest == pytest.approx(values.max(), rel=1e-5)
        assert row.mean == pytest.approx(values.mean(), rel=1e-4)
        assert row.zero_share == pytest.approx(np.mean(values == 0), abs=1e-6)
        assert 0 == row.num_nonfinite
        change = np.linalg.norm(variable.numpy() - old)
        if np.linalg.norm(old):
            ratio = change / np.linalg.norm(old)
            assert row.update_ratio == pytest.approx(ratio, rel=1e-3)
    assert {"largest", "mean", "zero_share"} <= rows[0].to_dict().keys()


def test_gradient_beyond_the_square_of_float32():
    """A norm of 1e30 is a number, and no Inf."""
    callback, _ = fit(
        classifier(lambda y, p: 1e30 * tf.reduce_mean(p), optimizer="adam")
    )
    assert {"ok"} == {row.status for row in callback.report.variables}
    assert all(1e25 < row.norm < math.inf for row in callback.report.variables)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_grad_norm_in_the_logs(eager, tmp_path):
    """History, CSVLogger, EarlyStopping and later callbacks see it."""
    seen = []
    path = tmp_path / "log.csv"
    callback = GradHealthCallback(every=3, log_norm=True)
    model = classifier("mse", eager)
    history = model.fit(
        *(X, Y),
        verbose=0,
        epochs=3,
        batch_size=4,
        callbacks=[
            keras.callbacks.CSVLogger(path),
            keras.callbacks.EarlyStopping("grad_norm", patience=9, mode="min"),
            keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda b, logs: seen.append(dict(logs))
            ),
            callback,
        ],
    ).history
    with open(path) as file:
        rows = list(csv.DictReader(file))
    expected = history["grad_norm"]
    assert expected == pytest.approx([float(r["grad_norm"]) for r in rows])
    assert all(map(math.isfinite, expected))
    assert {"grad_norm", "loss"} == seen[0].keys()
    # It is the mean of the epoch so far, as `loss` is.
    assert seen[3]["grad_norm"] == pytest.approx(expected[0])


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_logs_are_those_of_keras(eager):
    """Nobody gets an entry in the logs that was not asked for."""
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(set(logs))
    )
    model = classifier("mse", eager)
    history = model.fit(X, Y, verbose=0, callbacks=[GradHealthCallback(), look])
    assert ["loss"] == list(history.history)
    assert {"loss"} == set.union(*seen)


def test_embedding_rows_that_never_come_are_no_alarm():
    """Most rows get no gradient, and those do not move."""
    model = keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            keras.layers.Embedding(1000, 4),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    model.compile("sgd", "mse")
    tokens = np.arange(48).reshape(16, 3) % 5
    callback = GradHealthCallback(every=1)
    model.fit(tokens, Y, verbose=0, epochs=9, callbacks=[callback])
    assert () == callback.report.diagnoses
    table = callback.report.variables[0]
    assert 0.99 < table.zero_share < 1.0
    assert table.update_ratio > 0


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("action", ["raise", "stop"])
def test_on_break_acts_on_zeros(action):
    """What `on_break` says of a broken gradient holds for a zero one."""
    callback = GradHealthCallback(
        every=1, on_break=action, thresholds={"patience": 2}
    )
    model = classifier(dead)
    error = None
    try:
        model.fit(
            X, Y, verbose=0, epochs=9, batch_size=16, callbacks=[callback]
        )
    except GradientBreakError as raised:
        error = raised
    assert ("raise" == action) is (error is not None)
    assert 2 == int(model.optimizer.iterations)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_expected_zeros_are_silent():
    """What is meant to get nothing is not reported."""
    callback = GradHealthCallback(every=1, expect=["net/"])
    model = classifier(sign)
    model.fit(X, Y, verbose=0, epochs=8, batch_size=16, callbacks=[callback])
    assert () == callback.report.diagnoses
