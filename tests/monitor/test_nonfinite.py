"""Steps whose gradient is NaN or Inf: where it begins, what is done."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import (
    GradGuardLoss,
    GradHealthCallback,
    GradientBreakError,
    check_loss,
    diagnose,
)
from keras_gradguard.monitor.bad_step import BadSteps
from keras_gradguard.replay import read_incident
from tests.fitting import (
    MODES,
    NAMES,
    X,
    Y,
    classifier,
    fit,
    marked,
    skip_on_keras_3_5,
)


@tf.function
def helper(x):
    """The side that is not chosen, behind a tf.function."""
    return tf.where(x > 0.0, tf.math.log(x), 0.0 * x)  # cut


def in_helper(y_true, y_pred):
    """NaN behind a helper."""
    return tf.reduce_mean(helper(y_true * y_pred))


def in_branch(y_true, y_pred):
    """NaN in a branch of tf.cond."""
    zero = 0.0 * y_pred
    return tf.cond(
        tf.reduce_mean(y_true) > -1.0,
        lambda: tf.reduce_mean(tf.sqrt(zero)),  # cut
        lambda: tf.reduce_mean(y_pred),
    )


@tf.function
def in_loop(y_true, y_pred):
    """NaN in a loop that AutoGraph makes."""
    total = tf.zeros_like(y_pred[:, 0])
    for column in tf.range(3):
        total += tf.sqrt(0.0 * y_pred[:, column])  # cut
    return tf.reduce_mean(total)


def in_map(y_true, y_pred):
    """NaN in the function of map_fn."""

    def row(values):
        return tf.norm(values - tf.stop_gradient(values))  # cut

    return tf.reduce_mean(tf.map_fn(row, y_pred))


def deviation(y_true, y_pred):
    """The standard deviation of equal numbers has no slope."""
    equal = tf.ones_like(y_pred) * tf.reduce_mean(y_pred)
    return tf.reduce_mean(tf.math.reduce_std(equal, axis=-1))  # cut


def log_of_zero(y_true, y_pred):
    """A logarithm of zero in the forward pass."""
    zero = y_pred - tf.stop_gradient(y_pred)
    return tf.reduce_mean(tf.math.log(zero))  # cut


def nothing_by_nothing(y_true, y_pred):
    """0 / 0."""
    zero = 0.0 * y_pred
    return tf.reduce_mean(zero / zero)  # cut


def root_by_power(y_true, y_pred):
    """A fractional power at zero."""
    return tf.reduce_mean(tf.pow(0.0 * y_pred, 0.5))  # cut


def arc(y_true, y_pred):
    """The arc cosine at its end."""
    one = 1.0 + 0.0 * y_pred
    return tf.reduce_mean(tf.acos(one))  # cut


def angle(y_true, y_pred):
    """The angle of nothing."""
    zero = 0.0 * y_pred
    return tf.reduce_mean(tf.atan2(zero, zero))  # cut


def exponential(y_true, y_pred):
    """A softmax by hand: the exponential overflows, then Inf / Inf."""
    large = tf.exp(1000.0 + y_pred)  # cut
    total = tf.reduce_sum(large, axis=-1, keepdims=True)
    return tf.reduce_mean(large / total)


def half(y_true, y_pred):
    """float16 ends at 65504."""
    short = tf.cast(1e6 + y_pred, tf.float16)  # cut
    return tf.square(tf.cast(tf.reduce_mean(short), tf.float32))


def infinite_mask(y_true, y_pred):
    """A mask of -Inf is on purpose; a row of nothing else is not."""
    scores = tf.where(y_true > 5.0, y_pred, -np.inf)
    chosen = tf.nn.softmax(scores)  # cut
    return tf.reduce_mean(chosen * y_pred)


LOSSES = {
    in_branch: ("GG226", "backward", "Sqrt"),
    in_helper: ("GG227", "backward", "Log"),
    in_loop: ("GG226", "backward", "Sqrt"),
    in_map: ("GG226", "backward", "Sqrt"),
    deviation: ("GG226", "backward", "Sqrt"),
    log_of_zero: ("GG223", "forward", "Log"),
    nothing_by_nothing: ("GG224", "forward", "RealDiv"),
    root_by_power: ("GG228", "backward", "Pow"),
    arc: ("GG229", "backward", "Acos"),
    angle: ("GG229", "backward", "Atan2"),
    exponential: ("GG225", "forward", "Exp"),
    half: ("GG225", "forward", "Cast"),
    infinite_mask: ("GG230", "forward", "Softmax"),
}


def line_of(loss):
    """The marked line of a loss, of the helper for the one that calls it."""
    function = helper if loss is in_helper else loss
    function = getattr(function, "python_function", function)
    return marked(function)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_origin(loss, eager):
    """Code, phase, op and line of what made the first NaN or Inf."""
    callback, error = fit(classifier(loss, eager))
    assert error is None
    (found,) = callback.report.diagnoses
    code, phase, op = LOSSES[loss]
    assert (code, op) == (found.code, found.op)
    assert ("nonfinite", "proved") == (found.kind, found.certainty)
    assert phase == found.evidence["phase"]
    assert line_of(loss) == (found.file, found.line)
    assert 4 == len(found.variables)
    statuses = {row.status for row in callback.report.variables}
    assert {"nonfinite"} == statuses


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_check_loss_and_diagnose_agree(loss):
    """The loss alone and one look at the model give the same line."""
    alone = check_loss(loss, Y, X[:, :3])
    assert line_of(loss)[1] == alone.diagnoses[0].line
    report = diagnose(classifier(loss), X, Y)
    assert LOSSES[loss][0] == report.diagnoses[0].code
    assert line_of(loss)[1] == report.diagnoses[0].line


def chosen_safely(y_true, y_pred):
    """The double where."""
    scores = 1.0 + y_true * y_pred
    safe = tf.where(scores > 1.0, scores, 1.0)
    rise = tf.where(scores > 1.0, tf.math.log(safe), scores - 1.0)
    return tf.reduce_mean(rise)


def masked_softmax(y_true, y_pred):
    """A mask of -Inf that leaves something."""
    scores = tf.where(y_true > 0.5, -np.inf, y_pred)
    return tf.reduce_mean(tf.nn.softmax(scores) * [1.0, 2.0, 3.0])


def unused_infinity(y_true, y_pred):
    """An Inf that the loss does not depend on."""
    tf.debugging.assert_type(tf.math.log(tf.zeros([1])), tf.float32)
    return tf.reduce_mean(tf.square(y_true - y_pred))


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize(
    "loss", [chosen_safely, masked_softmax, unused_infinity]
)
def test_healthy_twin(loss, eager):
    """What is safe draws no word."""
    callback, error = fit(classifier(loss, eager))
    assert error is None
    assert () == callback.report.diagnoses


def sparse_rows(y_true, y_pred):
    """NaN only where a target is negative."""
    bad = (1.0 + tf.minimum(y_true, 0.0)) * (1.0 + y_pred**2)
    return tf.reduce_mean(tf.sqrt(bad))  # cut


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_samples_and_value(eager):
    """The rows of the batch, and what went in."""
    y = Y.copy()
    y[[3, 11], 1] = -1.0
    callback = GradHealthCallback(every=1)
    with pytest.warns(UserWarning, match="GG226"):
        classifier(sparse_rows, eager).fit(
            *(X, y),
            batch_size=16,
            verbose=0,
            shuffle=False,
            callbacks=[callback],
        )
    (found,) = callback.report.diagnoses
    assert [3, 11] == found.evidence["samples"]
    assert 0.0 == found.evidence["value"]
    assert marked(sparse_rows) == (found.file, found.line)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("part", ["x", "y", "sample_weight"])
def test_data(part, eager):
    """A NaN that comes with the batch is said to, with its rows."""
    values = {"x": X, "y": Y, "sample_weight": np.ones(16, "float32")}
    values = {name: value.copy() for name, value in values.items()}
    values[part][5] = np.nan
    model = classifier("mse", eager)
    callback = GradHealthCallback(every=1)
    with pytest.warns(UserWarning, match="GG221"):
        model.fit(
            **values,
            batch_size=16,
            verbose=0,
            shuffle=False,
            callbacks=[callback],
        )
    (found,) = callback.report.diagnoses
    assert [part] == found.evidence["data"]
    assert [5] == found.evidence["samples"]


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_weight(eager):
    """A weight that was NaN before the step is named by its layer."""
    model = classifier("mse", eager)
    model.get_layer("head").bias.assign([np.nan, 0.0, 0.0])
    callback, _ = fit(model)
    (found,) = callback.report.diagnoses
    assert ("GG222", "net/head") == (found.code, found.layer)


def test_built_in_layer_is_named():
    """No line of the user's, but the layer."""
    layers = [keras.layers.Rescaling(1e38, name="scale")]
    model = classifier("mse", middle=keras.Sequential(layers * 1, name="m"))
    model.get_layer("hidden").kernel.assign(np.full((4, 8), 100.0))
    callback, _ = fit(model)
    (found,) = callback.report.diagnoses
    assert "scale" in found.layer
    assert "GG225" == found.code


def only_under_xla(y_true, y_pred):
    """Its gradient is NaN only as XLA computes it (DESIGN.md, fact 18)."""
    size = tf.abs(y_pred - tf.stop_gradient(y_pred))
    root = tf.where(size > 0, tf.sqrt(size), 0.0)  # cut
    return tf.reduce_mean(root + 0.0 * y_pred)


def test_replay_in_the_mode_of_the_step():
    """XLA's NaN is found though the eager replay has none."""
    model = classifier(only_under_xla)
    model.compile("sgd", only_under_xla, jit_compile=True)
    callback, _ = fit(model)
    (found,) = callback.report.diagnoses
    assert marked(only_under_xla) == (found.file, found.line)
    assert any("XLA" in note for note in found.evidence["notes"])
    callback, _ = fit(classifier(only_under_xla))
    assert () == callback.report.diagnoses


def model_of(mode, steps=1):
    """A model with every sort of state, and data with one bad batch."""
    keras.utils.set_random_seed(6)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, name="hidden"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3, seed=1),
            keras.layers.Dense(3, name="head"),
        ]
    )
    model.compile(
        "adam",
        "mse",
        metrics=["mae"],
        jit_compile=mode == "xla",
        run_eagerly=mode == "eager",
        steps_per_execution=steps,
    )
    return model


def state_of(model):
    """Weights, slots and the count of updates."""
    variables = [*model.weights, *model.optimizer.variables]
    return [np.asarray(v.value) for v in variables]


WAYS = [("graph", 1), ("eager", 1), ("xla", 1), ("graph", 4), ("xla", 4)]


@pytest.mark.parametrize(("mode", "steps"), WAYS)
def test_skip_leaves_the_step_out(mode, steps):
    """What follows is as if the bad batch had not been there."""
    if steps > 1:
        skip_on_keras_3_5("drops an execution that is not full")
    x = X.copy()
    x[4:8] = np.nan
    without = np.delete(x, range(4, 8), 0), np.delete(Y, range(4, 8), 0)
    states = []
    for data in ((x, Y), without):
        model = model_of(mode, steps)
        model.layers[2].rate = 0.0
        callback = GradHealthCallback(
            every=1, on_nonfinite="skip", log_norm=True
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            history = model.fit(
                *data,
                batch_size=4,
                verbose=0,
                shuffle=False,
                callbacks=[callback],
            )
        states.append([*state_of(model)])
        assert np.isfinite(history.history["loss"][0])
        assert np.isfinite(history.history["grad_norm"][0])
    for one, other in zip(*states, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("action", ["stop", "raise"])
@pytest.mark.parametrize(("mode", "steps"), WAYS)
def test_stop_and_raise_leave_finite_weights(mode, steps, action):
    """The bad step is held back, and so are those after it."""
    x = X.copy()
    x[4:8] = np.nan
    model = model_of(mode, steps)
    callback = GradHealthCallback(every=1, on_nonfinite=action)
    error = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            model.fit(
                x,
                Y,
                batch_size=4,
                epochs=3,
                verbose=0,
                shuffle=False,
                callbacks=[callback],
            )
        except GradientBreakError as raised:
            error = raised
    assert ("raise" == action) is (error is not None)
    assert all(np.isfinite(value).all() for value in state_of(model))
    assert 1 == int(model.optimizer.iterations)
    (found,) = callback.report.diagnoses
    assert ("GG221", 1) == (found.code, found.step)
    if error is not None:
        assert "GG221" in str(error)


@pytest.mark.parametrize(("mode", "steps"), WAYS)
def test_warn_changes_no_bit(mode, steps):
    """With a bad batch the weights are those of an unguarded run too."""
    x = X.copy()
    x[12:] = 1e30
    states = []
    for callbacks in ([], [GradHealthCallback(every=1)]):
        model = model_of(mode, steps)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            model.fit(
                x,
                Y,
                batch_size=4,
                epochs=2,
                verbose=0,
                shuffle=False,
                callbacks=callbacks,
            )
        states.append(state_of(model))
    for one, other in zip(*states, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("action", ["warn", "skip"])
def test_two_callbacks_see_the_same_step(action):
    """What was kept of the bad step is not taken away by the first."""
    x = X.copy()
    x[4:8] = np.nan
    both = [GradHealthCallback(every=1, on_nonfinite=action) for _ in range(2)]
    model_of("graph").fit(
        *(x, Y), batch_size=4, verbose=0, shuffle=False, callbacks=both
    )
    first, second = (callback.report.diagnoses for callback in both)
    assert first == second
    assert ["GG221"] == [found.code for found in first]


class Unbuilt(keras.Model):
    """A model that is built in its first step."""

    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(8)
        self.scale = keras.layers.BatchNormalization()
        self.head = keras.layers.Dense(3)

    def call(self, x):
        """Takes the root of zero."""
        x = self.scale(self.hidden(x))
        return self.head(x + tf.sqrt(0.0 * x))  # cut


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("action", ["warn", "skip"])
def test_model_that_is_not_built(action, eager, tmp_path):
    """Its fresh weights are kept, and not accused."""
    model = Unbuilt()
    model.compile("adam", "mse", run_eagerly=eager)
    callback = GradHealthCallback(tmp_path, every=1, on_nonfinite=action)
    model.fit(*(X, Y), batch_size=4, epochs=2, verbose=0, callbacks=[callback])
    (found,) = callback.report.diagnoses
    assert "GG226" == found.code
    assert marked(Unbuilt)[1] == found.line
    folder = next((tmp_path / "incidents").iterdir())
    kept = read_incident(str(folder)).weights
    assert 8 <= len(kept)
    assert all(np.isfinite(w).all() for w in kept)
    if action == "skip":
        assert all(np.isfinite(w).all() for w in model.get_weights())


def log_of_negative(y_true, y_pred):
    """NaN, with a slope that is finite."""
    return tf.reduce_mean(tf.math.log(-1.0 - tf.square(y_pred)))  # cut


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("action", ["skip", "stop"])
def test_loss_alone_is_not_finite(action, eager):
    """The step is held back though its gradients are finite."""
    model = classifier(log_of_negative, eager)
    before = model.get_weights()
    callback, _ = fit(model, on_nonfinite=action)
    (found,) = callback.report.diagnoses
    assert ("GG223", 0) == (found.code, found.step)
    # All that the loss trains.
    assert 4 == len(found.variables)
    assert marked(log_of_negative) == (found.file, found.line)
    assert 0 == int(model.optimizer.iterations)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def in_vectorized_map(y_true, y_pred):
    """What pfor makes of a function is one op to the replay."""
    return tf.vectorized_map(lambda v: tf.math.log(v - 99.0), y_pred)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_vectorized_map():
    """It is reported, and the guard does not fail."""
    callback, error = fit(classifier(in_vectorized_map))
    assert error is None
    assert "nonfinite" == callback.report.diagnoses[0].kind


@tf.custom_gradient
def own_slope(x):
    """A gradient function that divides by zero."""
    return x + 0.0, lambda upstream: upstream / (0.0 * x)


def with_own_slope(y_true, y_pred):
    """The values are finite, what the function says of them is not."""
    return tf.reduce_mean(tf.square(y_true - own_slope(y_pred)))  # cut


@pytest.mark.filterwarnings("ignore::UserWarning")
class Waves(keras.layers.Layer):
    """Frequencies that an operator is given as they are."""

    def build(self, shape):
        self.frequency = self.add_weight(shape=(shape[-1],), name="frequency")

    def call(self, distance):
        """Divides by zero where there is no distance."""
        waves = tf.sin(self.frequency * distance) / distance  # cut
        return tf.where(distance > 0.0, waves, 0.0)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_weight_that_an_operator_reads(eager):
    """TensorFlow reads the variable itself; only its gradient is NaN."""
    model = keras.Sequential(
        [keras.Input((4,)), Waves(), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse", run_eagerly=eager)
    callback = GradHealthCallback()
    x = np.tile([0.0, 1.0, 2.0, 3.0], (8, 1)).astype("float32")
    model.fit(x, np.ones((8, 1)), verbose=0, callbacks=[callback])
    (found,) = callback.report.diagnoses
    assert (found.code, found.line) == ("GG227", marked(Waves.call)[1])
    assert [path.split("/")[-1] for path in found.variables] == ["frequency"]


def test_custom_gradient():
    """The call is named, and that its own gradient function is to blame."""
    callback, _ = fit(classifier(with_own_slope))
    (found,) = callback.report.diagnoses
    assert "GG230" == found.code
    assert marked(with_own_slope) == (found.file, found.line)
    assert any("custom gradient" in note for note in found.evidence["notes"])


def test_loss_scale_that_finds_its_level_is_no_alarm():
    """A scaled gradient that overflows is halved, not reported."""
    model = classifier("mse")
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.01), initial_scale=2.0**127
    )
    model.compile(optimizer, "mse")
    callback, error = fit(model)
    assert error is None
    assert () == callback.report.diagnoses


def test_mean_norm_while_a_loss_scale_finds_its_level():
    """A step that overflows is left out of it, as of the training."""
    model = classifier("mse", dtype="mixed_float16")
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.01), initial_scale=2.0**20
    )
    model.compile(optimizer, "mse", jit_compile=False)
    callback = GradHealthCallback(every=1, log_norm=True)
    history = model.fit(
        np.concatenate([X] * 12),
        np.concatenate([Y] * 12),
        batch_size=16,
        verbose=0,
        callbacks=[callback],
    )
    (treated,) = callback.report.optimizers
    assert treated.num_skipped > 1
    assert np.isfinite(history.history["grad_norm"]).all()


@tf.custom_gradient
def nan_behind_it(x):
    """A value that is fine and a slope that is not."""
    return tf.identity(x), lambda slope: slope * float("nan")


def test_loss_scale_that_stays_hides_nothing():
    """Keras leaves out no step because of a `loss_scale_factor`."""
    optimizer = keras.optimizers.SGD(0.1, loss_scale_factor=64.0)
    model = classifier("mse", middle=keras.layers.Lambda(nan_behind_it))
    model.compile(optimizer, "mse")
    callback, _ = fit(model, on_nonfinite="skip")
    (found,) = callback.report.diagnoses
    assert ("nonfinite", 0) == (found.kind, found.step)
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_bad_step_of_the_next_epoch(monkeypatch):
    """It is reported with its own gradients, not with those before it."""
    seen, original = [], BadSteps.explain

    def explain(self, kept, behind=None):
        (_, figures), *_ = kept.measured
        seen.append(figures[:, -1].tolist())
        return original(self, kept, behind)

    monkeypatch.setattr(BadSteps, "explain", explain)
    x, y = np.ones((12, 4), "float32"), np.ones((12, 3), "float32")

    class Spoiled(keras.losses.Loss):
        """Makes as many elements Inf as the target says, in the slope."""

        def call(self, y_true, y_pred):
            @tf.custom_gradient
            def spoiled(pred):
                kept = tf.where(y_true > 2.0, float("inf"), 1.0)
                return tf.reduce_sum(pred), lambda up: up * kept

            return spoiled(y_pred)

    y[0, :1], y[4, :2] = 9.0, 9.0
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(keras.optimizers.SGD(0.1, clipvalue=1.0), Spoiled())
    callback = GradHealthCallback(every=1)

    class Later(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            y_of_epoch[:] = [y, later][epoch]

    y_of_epoch, later = y.copy(), np.ones((12, 3), "float32")
    later[8, :3] = 9.0

    def batches():
        for n in range(0, 12, 4):
            yield x[n : n + 4], y_of_epoch[n : n + 4]

    data = tf.data.Dataset.from_generator(
        batches,
        output_signature=(
            tf.TensorSpec([4, 4], tf.float32),
            tf.TensorSpec([4, 3], tf.float32),
        ),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.fit(data, epochs=2, verbose=0, callbacks=[Later(), callback])
    assert [[4.0, 1.0], [12.0, 3.0]] == seen


def test_guarded_loss_keeps_its_line():
    """The wrapper around the loss does not hide the line."""
    callback, _ = fit(classifier(GradGuardLoss(nothing_by_nothing)))
    (found,) = callback.report.diagnoses
    assert line_of(nothing_by_nothing) == (found.file, found.line)


@pytest.mark.parametrize("action", ["explode", None])
def test_unknown_action(action):
    """The error lists what may be given."""
    with pytest.raises(ValueError, match='"skip"'):
        GradHealthCallback(on_nonfinite=action)
