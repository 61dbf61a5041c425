"""Output, loss and labels that do not fit each other, on the first batch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradGuardLoss, GradHealthCallback, diagnose
from tests.fitting import MODES, NAMES, X, marked

losses = keras.losses
_generator = np.random.default_rng(3)
N = len(X)
BITS = _generator.integers(0, 2, (N, 1)).astype("float32")
IDS = _generator.integers(0, 3, N)
CODES = np.eye(3, dtype="float32")[IDS]


class Own(keras.Model):
    """A model that is no graph of layers."""

    def __init__(self, units=3, after=None):
        super().__init__()
        self.hidden = keras.layers.Dense(8, activation="tanh")
        self.head = keras.layers.Dense(units)
        self.after = after or (lambda scores: scores)

    def call(self, x):
        return self.after(self.head(self.hidden(x)))


def network(units=3, activation=None, *after, **dense):
    """Returns a network with one hidden layer."""
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh"),
            keras.layers.Dense(units, activation=activation, **dense),
            *after,
        ]
    )


def large(units):
    """Returns a network whose scores are far below 0."""
    low = keras.initializers.Constant(-4.6)
    small = keras.initializers.RandomNormal(stddev=0.01)
    return network(units, bias_initializer=low, kernel_initializer=small)


def reshaped(units, activation):
    """Returns a network with a layer behind its activation."""
    return network(units, activation, keras.layers.Reshape((units,)))


def in_half(units, activation):
    """Returns a network whose output is cast to the dtype of the loss."""
    policy = keras.mixed_precision.DTypePolicy("mixed_float16")
    return network(units, activation, dtype=policy)


def two_heads():
    """Returns a network of which one output has scores, one has shares."""
    x = keras.Input((4,))
    scores = keras.layers.Dense(1, name="scores")(x)
    shares = keras.layers.Dense(3, activation="softmax", name="shares")(x)
    return keras.Model(x, [scores, shares])


def _log_scores(x):
    return tf.nn.log_softmax(x)


BCE, CCE = losses.BinaryCrossentropy, losses.CategoricalCrossentropy
SCE = losses.SparseCategoricalCrossentropy
# Codes, and `(model, loss, y)`.
MISFITS = {
    "scores_binary": (["GG213"], lambda: (network(1), BCE(), BITS)),
    "scores_by_name": (["GG213"], lambda: (network(1), "bce", BITS)),
    "scores_sparse": (["GG213"], lambda: (network(3), SCE(), IDS)),
    "scores_of_classes": (["GG213"], lambda: (network(3), CCE(), CODES)),
    "scores_own": (["GG213"], lambda: (Own(1), BCE(), BITS)),
    "scores_tanh": (["GG213"], lambda: (network(1, "tanh"), BCE(), BITS)),
    "scores_below": (["GG203"], lambda: (large(1), BCE(), BITS)),
    "log_scores": (
        ["GG203"],
        lambda: (Own(3, _log_scores), SCE(), IDS),
    ),
    "shares_reshaped": (
        ["GG214"],
        lambda: (reshaped(3, "softmax"), SCE(from_logits=True), IDS),
    ),
    "sigmoid_reshaped": (
        ["GG214"],
        lambda: (reshaped(1, "sigmoid"), BCE(from_logits=True), BITS),
    ),
    "shares_in_half": (
        ["GG214"],
        lambda: (in_half(3, "softmax"), CCE(from_logits=True), CODES),
    ),
    "share_of_one": (["GG215"], lambda: (network(1, "softmax"), BCE(), BITS)),
    "classes_of_one": (["GG215"], lambda: (network(1), CCE(), BITS)),
    "signs": (
        ["GG216"],
        lambda: (network(1, "sigmoid"), BCE(), 2 * BITS - 1),
    ),
    "signs_for_scores": (
        ["GG216"],
        lambda: (network(1), BCE(from_logits=True), 2 * BITS - 1),
    ),
    "ids_for_bits": (
        ["GG216"],
        lambda: (network(1, "sigmoid"), "bce", IDS[:, None] % 4 * 3),
    ),
    "far_numbers": (
        ["GG216"],
        lambda: (network(1, "sigmoid"), "mse", 50 + 10 * BITS),
    ),
    "negative_for_relu": (
        ["GG216"],
        lambda: (network(1, "relu", bias_initializer="ones"), "mse", -BITS - 1),
    ),
    "one_of_two": (
        ["GG213"],
        lambda: (
            two_heads(),
            [BCE(), SCE()],
            [BITS, IDS],
        ),
    ),
}
HALF = {"bias_initializer": keras.initializers.Constant(0.5)}
SMALL = {**HALF, "kernel_initializer": keras.initializers.RandomNormal(0, 0.01)}


def mean_of_two():
    """Returns a network whose output is the mean of two softmaxes."""
    x = keras.Input((4,))
    heads = [keras.layers.Dense(3, activation="softmax")(x) for _ in "ab"]
    return keras.Model(x, keras.layers.Average()(heads))


# All values lie where they might be healthy.
LIKELY = {
    "linear": ("GG213", lambda: (network(1, **SMALL), BCE(), BITS)),
    "relu": ("GG213", lambda: (network(3, "relu", **SMALL), SCE(), IDS)),
    "softplus": (
        "GG213",
        lambda: (network(1, "softplus", **SMALL), "bce", BITS),
    ),
    "mean": ("GG214", lambda: (mean_of_two(), SCE(from_logits=True), IDS)),
}
SMOOTH = 0.8 * CODES + 0.2 / 3
HEALTHY = {
    "bce": lambda: (network(1, "sigmoid"), "binary_crossentropy", BITS),
    "bce_flat": lambda: (network(1, "sigmoid"), BCE(), BITS[:, 0]),
    "bce_bool": lambda: (network(1, "sigmoid"), BCE(), BITS > 0),
    "bce_int": lambda: (network(1, "sigmoid"), BCE(), BITS.astype("int64")),
    "bce_scores": lambda: (network(1), BCE(from_logits=True), BITS),
    "bce_smooth": lambda: (
        network(1, "sigmoid"),
        BCE(label_smoothing=0.1),
        BITS,
    ),
    "bce_soft": lambda: (network(1, "sigmoid"), BCE(), 0.2 + 0.6 * BITS),
    "bce_many": lambda: (network(3, "sigmoid"), BCE(), CODES),
    "bce_hard": lambda: (network(1, "hard_sigmoid"), BCE(), BITS),
    "bce_taken": lambda: (
        network(1, "sigmoid"),
        BCE(from_logits=True),
        BITS,
    ),
    "bce_reshaped": lambda: (reshaped(1, "sigmoid"), BCE(), BITS),
    "bce_sure": lambda: (
        network(
            1,
            "sigmoid",
            bias_initializer=keras.initializers.Constant(9.0),
        ),
        BCE(),
        BITS,
    ),
    "bce_own": lambda: (Own(1, tf.sigmoid), BCE(), BITS),
    "focal": lambda: (
        network(1, "sigmoid"),
        losses.BinaryFocalCrossentropy(),
        BITS,
    ),
    "cce": lambda: (network(3, "softmax"), "categorical_crossentropy", CODES),
    "cce_smooth": lambda: (network(3, "softmax"), CCE(), SMOOTH),
    "cce_counts": lambda: (network(3, "softmax"), CCE(), 5 * CODES + 1),
    "cce_positive": lambda: (network(3, "softplus"), CCE(), CODES),
    "cce_scores": lambda: (network(3), CCE(from_logits=True), CODES),
    "sce": lambda: (network(3, "softmax"), SCE(), IDS),
    "sce_column": lambda: (network(3, "softmax"), SCE(), IDS[:, None]),
    "sce_scores": lambda: (network(3), SCE(from_logits=True), IDS),
    "sce_ignored": lambda: (
        network(3, "softmax"),
        SCE(ignore_class=-1),
        np.where(IDS == 2, -1, IDS),
    ),
    "sce_in_half": lambda: (in_half(3, "softmax"), SCE(), IDS),
    "sce_reshaped": lambda: (reshaped(3, "softmax"), SCE(), IDS),
    "sce_log": lambda: (
        Own(3, _log_scores),
        SCE(from_logits=True),
        IDS,
    ),
    "relu_scores": lambda: (
        network(3, "relu", bias_initializer="ones"),
        SCE(from_logits=True),
        IDS,
    ),
    "small_scores": lambda: (
        network(3, **SMALL),
        SCE(from_logits=True),
        IDS,
    ),
    "mean_of_shares": lambda: (mean_of_two(), SCE(), IDS),
    "small_numbers": lambda: (network(1, **SMALL), "mse", BITS),
    "half_of_tanh": lambda: (
        Own(1, lambda x: 0.5 + 0.5 * tf.tanh(x)),
        BCE(),
        BITS,
    ),
    "clipped": lambda: (
        Own(1, lambda x: tf.clip_by_value(x, 0.01, 0.99)),
        BCE(),
        BITS,
    ),
    "mse_of_shares": lambda: (network(3, "softmax"), "mse", CODES),
    "mse_in_unit": lambda: (network(1, "sigmoid"), "mse", 0.5 * BITS),
    "mse_noisy": lambda: (network(1, "sigmoid"), "mse", 1.02 * BITS - 0.01),
    "mse_relu": lambda: (
        network(1, "relu", bias_initializer="ones"),
        "mse",
        BITS - 0.7 * (np.arange(N)[:, None] % 3 == 0),
    ),
    "mse_far": lambda: (network(1), "mse", 50 + 10 * BITS),
    "hinge": lambda: (network(1, "tanh"), "hinge", 2 * BITS - 1),
    "dice": lambda: (network(3, "softmax"), losses.Dice(), CODES),
    "two": lambda: (
        two_heads(),
        [BCE(from_logits=True), SCE()],
        [BITS, IDS],
    ),
}


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(5)


def told(model, loss, y, eager, **arguments):
    """Fits one step and asks `diagnose`; returns the report of each."""
    model.compile("sgd", loss=loss, run_eagerly=eager)
    callback = GradHealthCallback(every=1)
    looked = diagnose(model, X, y, **arguments)
    model.fit(X, y, batch_size=N, verbose=0, callbacks=[callback], **arguments)
    assert callback.report.not_checked is None
    return looked, callback.report


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("case", MISFITS)
def test_misfit(case, eager):
    """The first batch tells, once."""
    codes, make = MISFITS[case]
    model, loss, y = make()
    for report in told(model, loss, y, eager):
        assert codes == [found.code for found in report.diagnoses]
        assert {"note"}.isdisjoint({d.severity for d in report.diagnoses})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize(
    "case",
    [
        "scores_by_name",
        "shares_reshaped",
        "share_of_one",
        "signs",
        "far_numbers",
        "negative_for_relu",
        "relu",
    ],
)
def test_misfit_in_a_guarded_loss(case, eager):
    """The wrapper hides no loss of Keras'."""
    codes, make = (MISFITS | LIKELY)[case]
    model, loss, y = make()
    for report in told(model, GradGuardLoss(loss), y, eager):
        found = [found.code for found in report.diagnoses]
        assert found == ([codes] if isinstance(codes, str) else codes)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("case", LIKELY)
def test_likely_misfit(case, eager):
    """The activation tells, where the values do not: a note."""
    code, make = LIKELY[case]
    model, loss, y = make()
    for report in told(model, loss, y, eager):
        (found,) = report.diagnoses
        assert (code, "note", "suspected") == (
            found.code,
            found.severity,
            found.certainty,
        )
        assert found.evidence["lowest"] >= 0 and found.evidence["highest"] <= 1
        assert report.ok


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("case", HEALTHY)
def test_healthy(case, eager):
    """What a healthy user does is no finding."""
    for report in told(*HEALTHY[case](), eager):
        assert () == report.diagnoses


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_labels_without_weight(eager):
    """A label that stands for none may be any number if its weight is 0."""
    y = np.where(np.arange(N)[:, None] % 4, BITS, -1.0)
    weights = (y[:, 0] >= 0).astype("float32")
    given = network(1, "sigmoid"), BCE(), y, eager
    for report in told(*given, sample_weight=weights):
        assert () == report.diagnoses
    for report in told(*given):
        assert ["GG216"] == [found.code for found in report.diagnoses]


@pytest.mark.filterwarnings("ignore")
def test_relu_that_dies_of_its_labels():
    """What follows from a misfit is no second finding."""
    model = network(1, "relu", bias_initializer="ones")
    model.compile("sgd", loss="mse")
    callback = GradHealthCallback(every=1)
    model.fit(X, -BITS - 1, epochs=200, verbose=0, callbacks=[callback])
    assert not np.any(model(X))
    assert ["GG216"] == [found.code for found in callback.report.diagnoses]


class OneShare(keras.layers.Layer):
    """Weighs its input by a softmax over one value of each row."""

    def __init__(self, softmax):
        super().__init__()
        self.softmax = softmax
        self.score = keras.layers.Dense(1)

    def call(self, x):
        return self.softmax(self.score(x)) * x


SOFTMAXES = {
    "tf": tf.nn.softmax,
    "keras": keras.ops.softmax,
    "layer": keras.layers.Softmax(),
    "log": lambda x: tf.exp(tf.nn.log_softmax(x)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("name", SOFTMAXES)
def test_softmax_over_one_value(name, eager):
    """It is constant by its formula, whatever the kernel makes of it."""
    layers = [keras.Input((4,)), OneShare(SOFTMAXES[name])]
    model = keras.Sequential([*layers, keras.layers.Dense(3)])
    for report in told(model, "mse", CODES, eager):
        (found,) = report.diagnoses
        assert "GG205" == found.code
        names = {path.rpartition("/")[0] for path in found.variables}
        assert {model.layers[0].score.path} == names


def train_with_names():
    """Compiles with a loss by its name."""
    model = network(1)
    model.compile(
        "sgd",
        loss="binary_crossentropy",  # cut
    )
    return model


def train_with_loss():
    """Compiles with a loss that was made before."""
    made = BCE(name="binary_of_bits")
    other = keras.losses.BinaryCrossentropy(name="of_bits")  # cut
    del made
    model = large(1)
    model.compile("sgd", loss=other)
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [train_with_names, train_with_loss])
def test_line_of_the_loss(make):
    """A loss of Keras' has the line that gives it to the model."""
    (found,) = diagnose(make(), X, BITS).diagnoses
    assert marked(make) == (found.file, found.line)
    assert any("from_logits=True" in item.after for item in found.help)


IGNORING = SCE(from_logits=True, ignore_class=-1)
NOTHING = np.full(N, -1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize(
    ("loss", "y", "weights"),
    [("mse", CODES, np.zeros(N)), (IGNORING, NOTHING, None)],
    ids=["weights", "ignored"],
)
def test_no_label_counts(loss, y, weights, eager):
    """A note, as the next batch may be of another kind; the loss is 0.

    Weights that are 0 in the first batch of a `fit` are no news.
    """
    given = {} if weights is None else {"sample_weight": weights}
    model = network(3)
    looked, trained = told(model, loss, y, eager, **given)
    codes = [(d.code, d.severity) for d in looked.diagnoses]
    assert [("GG217", "note")] == codes
    codes = [] if weights is not None else codes
    assert codes == [(d.code, d.severity) for d in trained.diagnoses]
    assert 0.0 == float(model.evaluate(X, y, verbose=0, **given))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("loss", "y", "weights"),
    [
        ("mse", CODES, np.arange(N) == 3),
        ("mse", np.ones_like(CODES), None),
        (IGNORING, np.where(np.arange(N) % 4, -1, IDS), None),
        (SCE(from_logits=True), np.zeros(N, "int32"), None),
        (BCE(from_logits=True), np.ones((N, 3)), np.full(N, 0.5)),
    ],
    ids=["one_weight", "constant", "one_in_four", "one_class", "half"],
)
def test_some_label_counts(loss, y, weights):
    """Labels that are all alike are no fault on one batch."""
    given = {} if weights is None else {"sample_weight": weights}
    for report in told(network(3), loss, y, False, **given):
        assert () == report.diagnoses
