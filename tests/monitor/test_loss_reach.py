"""Which loss reaches which variable, and by how much."""

import json
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback, diagnose
from keras_gradguard.model.layers import state_of
from keras_gradguard.records.health import LossReach, VariableHealth
from keras_gradguard.records.report import Report
from tests.fitting import X, Y, classifier, fit, marked

EAGER = {"run_eagerly": True}
MODES = {"compiled": {}, "eager": EAGER, "jit": {"jit_compile": True}}
modes = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
# XLA takes seconds to compile a step.
plain_modes = pytest.mark.parametrize(
    "mode", [{}, EAGER], ids=["compiled", "eager"]
)


def rounded(y_true, y_pred):
    """Cuts one loss."""
    return tf.reduce_mean(tf.square(y_true - tf.round(y_pred)))  # cut


def kept(y_true, y_pred):
    """Cuts nothing."""
    return tf.reduce_mean(tf.square(y_true - y_pred))


class Rounded(keras.losses.Loss):
    """Cuts one loss, as a class."""

    def call(self, y_true, y_pred):
        """Returns a value for each row."""
        return tf.reduce_mean(tf.square(y_true - tf.round(y_pred)), -1)  # cut


class Kept(keras.losses.Loss):
    """The same without the cut."""

    def call(self, y_true, y_pred):
        """Returns a value for each row."""
        return tf.reduce_mean(tf.square(y_true - y_pred), -1)


class Sparse(keras.layers.Layer):
    """Adds a loss that reaches everything before it."""

    def call(self, inputs):
        """Adds the mean square."""
        self.add_loss(0.1 * tf.reduce_mean(tf.square(inputs)))
        return inputs


class Counting(keras.layers.Layer):
    """Adds a loss that is cut."""

    def call(self, inputs):
        """Adds a count of active units."""
        self.add_loss(
            tf.reduce_mean(tf.cast(inputs > 0.0, tf.float32))  # cut
        )
        return inputs


class TwoHeads(keras.Model):
    """A subclassed model with two outputs, a cut before one of them."""

    def __init__(self, is_cut=False):
        super().__init__()
        self.trunk = keras.layers.Dense(8, name="trunk")
        self.one = keras.layers.Dense(3, name="one")
        self.two = keras.layers.Dense(3, name="two")
        self.is_cut = is_cut

    def call(self, inputs):
        """Returns both heads."""
        hidden = self.trunk(inputs)
        one = self.one(hidden)
        if self.is_cut:
            one = tf.round(one)  # cut
        return {"one": one, "two": self.two(hidden)}


class Penalised(TwoHeads):
    """Adds a loss of the model itself, cut or not."""

    is_penalty_cut = False

    def call(self, inputs):
        """Adds a penalty on the first head."""
        outputs = super().call(inputs)
        one = outputs["one"]
        if self.is_penalty_cut:
            one = tf.floor(one)  # cut
        self.add_loss(tf.reduce_mean(one))
        return outputs


def heads(loss, as_dict=True, between=None, middle=None, trunk=(), **compiled):
    """Returns a model with a trunk and the heads `one` and `two`.

    Args:
        loss: As for `compile`.
        as_dict: Whether the outputs are a dict, or a list.
        between: A layer between the trunk and head `one`.
        middle: A layer at the end of the trunk.
        trunk: Further arguments of the layers, a dict.
        compiled: Further arguments of `compile`.
    """
    inputs = keras.Input((4,))
    arguments = dict(trunk)
    hidden = keras.layers.Dense(8, name="trunk", **arguments)(inputs)
    if middle is not None:
        hidden = middle(hidden)
    one = hidden
    if between is not None:
        one = between(keras.layers.Dense(5, name="before")(one))
    one = keras.layers.Dense(3, name="one")(one)
    two = keras.layers.Dense(3, name="two")(hidden)
    outputs = {"one": one, "two": two} if as_dict else [one, two]
    model = keras.Model(inputs, outputs)
    model.compile(**{"optimizer": "sgd", "loss": loss, **compiled})
    return model


BOTH, LISTED = {"one": Y, "two": 2 * Y}, [Y, 2 * Y]


def guarded(model, y=BOTH, **arguments):
    """Fits two ordered batches under a callback; returns its report."""
    callback = GradHealthCallback(every=1)
    arguments = {"batch_size": 8, "shuffle": False, "verbose": 0, **arguments}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.fit(X, y, callbacks=[callback], **arguments)
    return callback.report


def tape_norms(model, terms, x, y):
    """Norms of each term's gradient and of their sum, before any step.

    Args:
        model: A built model, left as it was.
        terms: Returns a dict of the terms, of the model, outputs, targets.
        x: A batch.
        y: Its targets.
    """
    state = [(v, v.numpy()) for v in state_of(model)]
    with tf.GradientTape(persistent=True) as tape:
        found = terms(model, model(x, training=True), y)
        found["sum"] = tf.add_n(list(found.values()))
    variables = model.trainable_variables
    norms = {}
    for name, value in found.items():
        gradients = tape.gradient(value, variables)
        norms[name] = [
            None if g is None else float(tf.norm(tf.convert_to_tensor(g)))
            for g in gradients
        ]
    for variable, value in state:
        variable.assign(value)
    return norms


def assert_close(expected, reach, tolerance=1e-5):
    """`None` where `None` is expected, else equal but for rounding."""
    assert [n is None for n in expected] == [n is None for n in reach.norms]
    assert [n is not None for n in expected] == list(reach.reaches)
    for wanted, norm in zip(expected, reach.norms, strict=True):
        if wanted is not None:
            assert wanted == pytest.approx(norm, rel=tolerance, abs=1e-12)


def many_terms(mode):
    """A model with every kind of term, and dropout; and its terms."""
    keras.utils.set_random_seed(3)
    middle = keras.Sequential([Sparse(), keras.layers.Dropout(0.5)])
    model = heads(
        {"one": "mse", "two": "mse"},
        middle=middle,
        trunk={"kernel_regularizer": "l2", "activity_regularizer": "l1"},
        loss_weights={"one": 0.25, "two": 3.0},
        optimizer="adam",
        **mode,
    )

    def terms(model, outputs, y):
        mean = tf.reduce_mean
        kernel = model.trainable_variables[0]
        return {
            "mse (one)": 0.25 * mean(tf.square(outputs["one"] - y["one"])),
            "mse (two)": 3.0 * mean(tf.square(outputs["two"] - y["two"])),
            "add_loss": model.losses[1] + 0.0,
            "activity_regularizer": model.losses[0] + 0.0,
            "L2": 0.01 * tf.reduce_sum(tf.square(kernel)),
        }

    return model, terms


@modes
def test_norms_are_those_of_a_tape(mode):
    """Of the first batch, with the weights and the dropout of its step."""
    model, terms = many_terms(mode)
    batch = X[:8], {name: y[:8] for name, y in BOTH.items()}
    expected = tape_norms(model, terms, *batch)
    report = guarded(model)
    assert report.ok
    del expected["sum"]
    assert list(expected) == [loss.name for loss in report.losses]
    for reach in report.losses:
        assert 0 == reach.step
        assert_close(expected[reach.name], reach)
    kinds = ["loss", "loss", "add_loss", "regularizer", "regularizer"]
    assert kinds == [loss.kind for loss in report.losses]


@plain_modes
def test_diagnose_measures_the_same(mode):
    """One look gives the matrix of that batch."""
    model, terms = many_terms(mode)
    expected = tape_norms(model, terms, X, BOTH)
    report = diagnose(model, X, BOTH)
    for reach in report.losses:
        assert_close(expected[reach.name], reach)


def rows_of(gradients):
    """Gradients as dense arrays."""
    return [None if g is None else np.array(g) for g in gradients]


def test_terms_add_up_to_the_gradient_of_the_step():
    """No term is counted twice, and none is left out."""
    from keras_gradguard.backend.tensorflow.tracing import reruns

    model, _ = many_terms({})
    seen = []
    original = reruns._gradients

    def spy(tape, seeds, variables):
        found = original(tape, seeds, variables)
        seen.append(rows_of(found))
        return found

    total = {}

    def apply(gradients, variables=None):
        total["sum"] = rows_of(list(gradients))

    model.compile("adam", {"one": "mse", "two": "mse"}, run_eagerly=True)
    model.optimizer.apply = apply
    states = [(v, v.numpy()) for v in state_of(model)]
    data = tf.constant(X), {n: tf.constant(y) for n, y in BOTH.items()}
    model.train_step(data)
    for variable, value in states:
        variable.assign(value)
    del model.optimizer.apply
    reruns._gradients = spy
    try:
        diagnose(model, X, BOTH)
    finally:
        reruns._gradients = original
    assert 5 == len(seen)
    for number, whole in enumerate(total["sum"]):
        parts = [row[number] for row in seen if row[number] is not None]
        np.testing.assert_allclose(sum(parts), whole, rtol=1e-5, atol=1e-7)


@modes
def test_weights_metrics_and_losses_are_as_without(mode):
    """The look at the first batch changes no bit of the training."""
    seen = []
    for is_guarded in (False, True):
        model, _ = many_terms(mode)
        callback = [GradHealthCallback(every=1)] if is_guarded else []
        history = model.fit(
            X, BOTH, batch_size=4, epochs=2, verbose=0, callbacks=callback
        )
        logs = {**history.history}
        weights = [np.array(w) for w in model.get_weights()]
        draws = float(keras.random.uniform(())), float(np.random.rand())
        seen.append((weights, logs, draws, len(model.losses)))
    plain, watched = seen
    for old, new in zip(plain[0], watched[0], strict=True):
        np.testing.assert_array_equal(old, new)
    assert plain[1:] == watched[1:]


SHAPES = {
    "dict": (True, {"one": kept, "two": "mse"}, BOTH),
    "list": (False, [kept, "mse"], LISTED),
    "nested": (False, [[kept, "mae"], "mse"], LISTED),
    "class": (True, {"one": Kept(name="own"), "two": "mse"}, BOTH),
}
CUTS = {"dict": rounded, "list": rounded, "nested": rounded, "class": Rounded}


def with_cut(loss, cut):
    """The same nest of losses, `kept` and `Kept` replaced by `cut`."""
    made = cut(name="own") if isinstance(cut, type) else cut
    return keras.tree.map_structure(
        lambda one: one if isinstance(one, str) else made, loss
    )


@plain_modes
@pytest.mark.parametrize("shape", SHAPES)
def test_a_cut_loss_beside_others(shape, mode):
    """It is named with its line, though another loss trains the trunk."""
    as_dict, loss, y = SHAPES[shape]
    weights = keras.tree.map_structure(lambda _: 0.5, loss)
    mode = {"loss_weights": weights, **mode}
    report = guarded(heads(loss, as_dict, **mode), y)
    assert () == report.diagnoses
    assert all(any(one.reaches) for one in report.losses)
    cut = CUTS[shape]
    report = guarded(heads(with_cut(loss, cut), as_dict, **mode), y)
    (found,) = report.diagnoses
    name = "own" if cut is Rounded else "rounded"
    place = marked(Rounded.call if cut is Rounded else rounded)
    assert (*place, name) == (found.file, found.line, found.loss)
    lost = {path.split("/")[0] for path in found.variables}
    assert {"trunk", "one"} == lost
    assert "warning" == found.severity
    (row,) = [one for one in report.losses if one.name == name]
    assert not any(row.reaches)
    assert (None,) * len(report.variables) == row.norms


@pytest.mark.parametrize(
    ("output", "mode"),
    [("one", {"jit_compile": True}), ("two", {}), ("one", EAGER)],
)
def test_same_loss_on_both_outputs(output, mode):
    """The output tells which of two losses of one name is cut."""

    def error(y_true, y_pred):
        return tf.reduce_mean(tf.square(y_true - y_pred))

    def cut_error(y_true, y_pred):
        return tf.reduce_mean(tf.square(y_true - tf.round(y_pred)))  # cut

    cut_error.__name__ = "error"
    loss = {"one": error, "two": error}
    if not mode:
        assert () == guarded(heads(loss)).diagnoses
    report = guarded(heads({**loss, output: cut_error}, **mode))
    (found,) = report.diagnoses
    assert f"error ({output})" == found.loss
    assert marked(cut_error)[1] == found.line
    names = ["error (one)", "error (two)"]
    assert names == [one.name for one in report.losses]


@modes
def test_a_cut_head_with_a_shared_trunk(mode):
    """The head's own variables, and that the trunk gets nothing from it."""
    loss = {"one": kept, "two": "mse"}

    def floor():
        return keras.layers.Lambda(lambda t: tf.floor(t), name="f")  # cut

    same = keras.layers.Lambda(lambda t: t * 1.0)
    assert () == guarded(heads(loss, between=same, **mode)).diagnoses
    report = guarded(heads(loss, between=floor(), **mode))
    (found,) = report.diagnoses
    assert (*marked(floor), "kept") == (found.file, found.line, found.loss)
    expected = ["trunk/kernel", "trunk/bias", "before/kernel", "before/bias"]
    assert expected == list(found.variables)
    (note,) = [n for n in found.evidence["notes"] if "gives no gradient" in n]
    assert "trunk/kernel, trunk/bias" in note
    assert "before" not in note
    (row,) = [one for one in report.losses if one.name == "kept"]
    by_path = dict(
        zip([v.path for v in report.variables], row.reaches, strict=True)
    )
    assert {"one/kernel", "one/bias"} == {p for p in by_path if by_path[p]}


@modes
def test_subclassed_model_with_one_loss_for_all(mode):
    """`loss="mse"` is one loss for each output."""
    model = TwoHeads()
    model.compile("sgd", "mse", **mode)
    report = guarded(model)
    assert () == report.diagnoses
    assert ["mse (one)", "mse (two)"] == [one.name for one in report.losses]
    assert {1} == {one.step for one in report.losses}
    model = TwoHeads(is_cut=True)
    model.compile("sgd", "mse", **mode)
    (found,) = guarded(model).diagnoses
    assert (marked(TwoHeads.call)[1], "mse (one)") == (found.line, found.loss)
    lost = {path.split("/")[-2] for path in found.variables}
    assert {"trunk", "one"} == lost


@modes
def test_add_loss_of_the_model(mode):
    """A term of the model itself, alone in reaching its head."""
    model = Penalised()
    model.compile("sgd", {"two": "mse", "one": None}, **mode)
    report = guarded(model)
    assert () == report.diagnoses
    assert ["mse", "add_loss"] == [one.name for one in report.losses]
    model = Penalised()
    model.is_penalty_cut = True
    model.compile("sgd", {"two": "mse", "one": None}, **mode)
    (found,) = guarded(model).diagnoses
    assert marked(Penalised.call)[1] == found.line
    assert "add_loss" == found.loss
    assert {"trunk", "one"} == {p.split("/")[-2] for p in found.variables}


@modes
def test_cut_add_loss(mode):
    """An `add_loss` of a layer that reaches nothing."""
    if not mode:
        assert () == guarded(classifier("mse", middle=Sparse()), Y).diagnoses
    model = classifier("mse", middle=Counting())
    model.compile("sgd", "mse", **mode)
    report = guarded(model, Y)
    (found,) = report.diagnoses
    assert marked(Counting.call)[1] == found.line
    assert "add_loss" == found.loss
    assert ["net/hidden/kernel", "net/hidden/bias"] == list(found.variables)
    row = {one.name: one for one in report.losses}["add_loss"]
    assert not any(row.reaches)


@plain_modes
@pytest.mark.parametrize("which", ["kernel", "bias", "activity"])
def test_regularisers_are_told_apart(which, mode):
    """What only a regulariser moves is not trained by the data."""
    dense = {f"{which}_regularizer": "l2"}
    model = classifier("mse", **dense)
    model.compile("sgd", "mse", **mode)
    report = guarded(model, Y)
    assert report.ok
    assert ["loss", "regularizer"] == [one.kind for one in report.losses][:2]
    model = classifier(rounded, **dense)
    model.compile("sgd", rounded, **mode)
    callback, _ = fit(model)
    report = callback.report
    (found,) = report.diagnoses
    assert (marked(rounded)[1], "rounded") == (found.line, found.loss)
    assert 4 == len(found.variables)
    by_kind = {one.kind: one for one in report.losses}
    assert not any(by_kind["loss"].reaches)
    assert any(by_kind["regularizer"].reaches)


@plain_modes
def test_a_weight_of_zero(mode):
    """The term is connected, and its norms are zero."""
    model = heads(
        {"one": kept, "two": "mse"},
        loss_weights={"one": 0.0, "two": 1.0},
        **mode,
    )
    report = guarded(model, epochs=4)
    assert ["GG207"] == [found.code for found in report.diagnoses]
    row = report.losses[0]
    assert ("kept", {0.0, None}) == (row.name, set(row.norms))
    assert (True,) * 4 + (False,) * 2 == row.reaches


def test_stopped_gradient_between_is_no_alarm():
    """A head that only listens to the trunk is meant to."""
    stop = keras.layers.Lambda(tf.stop_gradient)
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8, name="trunk")(inputs)
    outputs = {
        "one": keras.layers.Dense(3, name="one")(stop(hidden)),
        "two": keras.layers.Dense(3, name="two")(hidden),
    }
    model = keras.Model(inputs, outputs)
    model.compile("sgd", {"one": kept, "two": "mse"})
    report = guarded(model)
    assert () == report.diagnoses
    assert (False, False, True, True, False, False) == report.losses[0].reaches


def test_values_lost_between_are_a_warning():
    """Steps between trunk and head: one loss never reaches the trunk."""
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8, name="trunk")(inputs)
    steps = keras.layers.Lambda(lambda t: tf.round(t), name="steps")
    outputs = {
        "one": keras.layers.Dense(3, name="one")(steps(hidden)),
        "two": keras.layers.Dense(3, name="two")(hidden),
    }
    model = keras.Model(inputs, outputs)
    model.compile("sgd", {"one": kept, "two": "mse"})
    report = guarded(model)
    (found,) = report.diagnoses
    assert ("warning", "kept") == (found.severity, found.loss)
    assert ("trunk/kernel", "trunk/bias") == found.variables
    (found,) = diagnose(model, X, BOTH).diagnoses
    assert "warning" == found.severity


class Manual(keras.Model):
    """Sums a loss that is no Keras loss, and one that is."""

    def __init__(self):
        super().__init__()
        self.head = keras.layers.Dense(3, kernel_regularizer="l2")

    def call(self, inputs):
        """Calls the head."""
        return self.head(inputs)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Adds a term by hand."""
        own = super().compute_loss(x, y, y_pred, sample_weight, training)
        return own + 2.0 * tf.reduce_mean(tf.abs(y_pred))


def test_what_is_added_by_hand():
    """A term that is no Keras loss is the rest of the total."""
    model = Manual()
    model.compile("sgd", "mse")
    model.build((None, 4))
    expected = tape_norms(
        model,
        lambda model, outputs, y: {
            "other": 2.0 * tf.reduce_mean(tf.abs(outputs))
        },
        X[:8],
        Y[:8],
    )
    report = guarded(model, Y)
    names = ["mse", "L2", "other"]
    assert names == [one.name for one in report.losses]
    assert_close(expected["other"], report.losses[-1], 1e-4)


class OwnStep(TwoHeads):
    """A step of its own, with two losses."""

    def train_step(self, data):
        """Trains with both heads."""
        x, y = data
        with tf.GradientTape() as tape:
            outputs = self(x, training=True)
            loss = keras.losses.MeanSquaredError()(y["one"], outputs["one"])
            loss += keras.losses.MeanAbsoluteError()(y["two"], outputs["two"])
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


@pytest.mark.parametrize("eager", [False, True])
def test_own_step_is_connected_and_not_measured(eager):
    """A `train_step` of the user's own is not run a second time."""
    model = OwnStep()
    model.compile("sgd", run_eagerly=eager)
    report = guarded(model)
    assert [None, None] == [one.norms for one in report.losses]
    reaches = [one.reaches for one in report.losses]
    assert [
        (True,) * 4 + (False,) * 2,
        (True, True) + (False,) * 2 + (True,) * 2,
    ] == reaches
    assert "yes" in str(report)


class Adversaries(keras.Model):
    """Two tapes, two optimizers; each loss depends on both networks."""

    def __init__(self):
        super().__init__()
        self.maker = keras.layers.Dense(4, name="maker")
        self.judge = keras.layers.Dense(1, name="judge")
        self.other = keras.optimizers.SGD()

    def call(self, inputs):
        """Judges what was made."""
        return self.judge(self.maker(inputs))

    def train_step(self, data):
        """Trains the judge, then the maker."""
        x, _ = data
        one = tf.ones_like(x[:, :1])
        for layer, optimizer, target, name in (
            (self.judge, self.other, 0.0 * one, "judging"),
            (self.maker, self.optimizer, one, "making"),
        ):
            with tf.GradientTape() as tape:
                score = self(x, training=True)
                loss = keras.losses.MeanSquaredError(name=name)(target, score)
            weights = layer.trainable_variables
            optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


@plain_modes
def test_each_tape_trains_its_own_variables(mode):
    """A loss reaches only what its tape was asked for."""
    model = Adversaries()
    model.compile("sgd", **mode)
    report = guarded(model, Y)
    assert () == report.diagnoses
    found = {one.name: one.reaches for one in report.losses}
    made, judged = (True, True, False, False), (False, False, True, True)
    assert {"judging": judged, "making": made} == found


@plain_modes
def test_a_loss_that_keras_leaves_out(mode):
    """One output and a list of losses: only the first one trains."""
    model = classifier("mse")
    model.compile("sgd", ["mse", "mae"], **mode)
    for report in (guarded(model, Y), diagnose(model, X, Y)):
        (found,) = report.diagnoses
        assert ("GG306", "mae") == (found.code, found.loss)
        assert "warning" == found.severity
        assert 4 == len(found.variables)
        assert [True, False] == [any(one.reaches) for one in report.losses]


def test_one_loss_has_no_matrix():
    """A loss of one term is told by the norms of the variables."""
    report = guarded(classifier("mse"), Y)
    assert () == report.losses
    assert [] == report.to_dict()["losses"]
    assert "losses:" not in str(report)


def test_many_steps_at_once():
    """With `steps_per_execution` it is measured after the first call."""
    model = heads({"one": kept, "two": "mse"}, steps_per_execution=2)
    report = guarded(model)
    assert {2} == {one.step for one in report.losses}
    assert all(one.norms is not None for one in report.losses)


def test_a_loop_is_measured_as_a_graph():
    """A recurrent layer is not run op by op; its norms are the same."""
    inputs = keras.Input((4,))
    hidden = keras.layers.Reshape((4, 1))(inputs)
    hidden = keras.layers.LSTM(5, name="trunk")(hidden)
    outputs = {n: keras.layers.Dense(3, name=n)(hidden) for n in BOTH}
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    expected = tape_norms(
        model,
        lambda model, outputs, y: {
            f"mse ({n})": tf.reduce_mean(tf.square(outputs[n] - y[n]))
            for n in BOTH
        },
        X[:8],
        {n: y[:8] for n, y in BOTH.items()},
    )
    report = guarded(model)
    assert () == report.diagnoses
    for reach in report.losses:
        assert_close(expected[reach.name], reach)


def test_float16_is_unscaled():
    """The loss scale is in no norm, and rescues what is small."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = heads(
            {"one": "mse", "two": "mae"}, loss_weights={"one": 1.0, "two": 1e-6}
        )
        report = guarded(model)
    finally:
        keras.config.set_dtype_policy(before)
    one, two = report.losses
    kernel = [v.path for v in report.variables].index("two/kernel")
    assert 1e-8 < two.norms[kernel] < 1e-5
    assert 1e-2 < one.norms[0] < 1e2


def test_a_large_model_is_not_measured(monkeypatch):
    """Above the room for it only the graph is asked."""
    from keras_gradguard.monitor import first_batch

    monkeypatch.setattr(first_batch, "MOST_BYTES", 100)
    report = guarded(heads({"one": kept, "two": "mse"}))
    assert [None, None] == [one.norms for one in report.losses]
    assert (True,) * 4 + (False,) * 2 == report.losses[0].reaches


def test_record_and_text():
    """Every field is in JSON; a long table says what it leaves out."""
    variables = tuple(
        VariableHealth(f"v{n}", (1,), "float32", "ok") for n in range(30)
    )
    reaches = (True,) * 29 + (False,)
    norms = (*(0.5,) * 28, float("nan"), None)
    losses = (
        LossReach("mse", "loss", reaches, norms, 4),
        LossReach("L2", "regularizer", (True,) * 30, (0.25,) * 30, 4),
    )
    report = Report((), variables, losses=losses)
    values = json.loads(report.to_json())["losses"][0]
    assert {"name", "kind", "reaches", "norms", "step", "note"} == set(values)
    assert (["nan", None], 4) == (values["norms"][-2:], values["step"])
    lines = str(report).split("\n\n")[-1].splitlines()
    assert "at step 4" in lines[0]
    assert ["variable", "mse", "L2", "[regularizer]"] == lines[1].split()
    assert ["v29", "-", "0.25"] == lines[2].split()
    assert ["v0", "0.5", "0.25"] == lines[3].split()
    assert "(+10 more variables)" == lines[-1]
    assert "losses:" in report._repr_html_()
