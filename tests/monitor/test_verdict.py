"""One verdict: broken, healthy, undecided or not checked."""

import copy
import itertools
import json
import math
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import (
    GradHealthCallback,
    GradientBreakWarning,
    diagnose,
    watch,
)
from keras_gradguard.__main__ import main
from keras_gradguard.measure import rows
from keras_gradguard.monitor.verdict import RowVerdicts
from keras_gradguard.records.health import VariableHealth
from keras_gradguard.records.kinds import SEVERITIES, STATUSES
from keras_gradguard.records.reading import report_of
from keras_gradguard.records.report import Diagnosis, Report, Undecided
from keras_gradguard.records.text import closing_line
from tests.fitting import MODES, NAMES, X, Y, classifier

pytestmark = pytest.mark.filterwarnings(
    "ignore::keras_gradguard.GradientBreakWarning",
    "ignore:The model does not have any trainable weights",
)
both = pytest.mark.parametrize("eager", MODES, ids=NAMES)


class Dead(keras.layers.Layer):
    """No unit of it is ever on, for data like ours."""

    def call(self, x):
        """Returns zeros."""
        return tf.nn.relu(x - 1000.0)


class Late(keras.layers.Layer):
    """Off in the first steps, and on from then on."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.seen = self.add_weight(trainable=False, name="seen")

    def call(self, x):
        """Lets the value pass once it is time."""
        self.seen.assign_add(1.0)
        return x * tf.cast(self.seen > self.steps, x.dtype)


def network(*middle, eager=False, loss="mse"):
    """A model of two layers with something between them."""
    layers = [keras.Input((4,)), keras.layers.Dense(4, name="hidden")]
    layers += [*middle, keras.layers.Dense(3, name="head")]
    model = keras.Sequential(layers)
    model.compile("sgd", loss, run_eagerly=eager)
    return model


def fit(model, epochs=1, **arguments):
    """Fits one batch an epoch; returns the callback."""
    callback = GradHealthCallback(**{"every": 1, **arguments})
    model.fit(
        X,
        Y,
        batch_size=len(X),
        epochs=epochs,
        verbose=0,
        callbacks=[callback],
    )
    return callback


def seen_alike(report):
    """Each view of a report has the same verdict; returns it."""
    verdict = report.verdict
    assert ("healthy" == verdict) is report.ok
    lines = str(report).splitlines()
    (first,) = [line for line in lines if line.startswith("report: ")]
    assert first.removeprefix("report: ").startswith(verdict)
    assert f"report: {verdict}" in report._repr_html_()
    values = json.loads(report.to_json())
    assert (verdict, report.ok) == (values["verdict"], values["ok"])
    assert closing_line(report).startswith(f"gradguard: {verdict}")
    back = report_of(values)
    assert verdict == back.verdict
    return verdict


@both
def test_healthy(eager):
    """Each gradient is there."""
    callback = fit(network(eager=eager))
    assert "healthy" == seen_alike(callback.report)
    assert () == callback.report.undecided


@both
def test_zeros_that_are_too_few_are_undecided(eager):
    """What was seen is said, and at which step there will be a verdict."""
    model = network(Dead(), eager=eager)
    callback = GradHealthCallback(every=2)
    model.fit(X, Y, batch_size=4, epochs=1, verbose=0, callbacks=[callback])
    steps = math.ceil(len(X) / 4)
    records = math.ceil(steps / 2)
    report = callback.report
    assert records < 5
    assert "undecided" == seen_alike(report)
    (item,) = report.undecided
    zero = [row.path for row in report.variables if row.status == "zero"]
    assert 3 == len(zero)
    assert set(zero) == set(item.variables)
    # The fifth record is that of step 8, as steps count from 0.
    when = "5 consecutive records, that is, step 8 with every=2"
    assert str(item).endswith(when)
    assert str(item) in " ".join(str(report).split())
    assert {"note"} >= {d.severity for d in report.diagnoses}


@both
def test_zeros_that_last_are_broken(eager):
    """After the patience the same model has a verdict."""
    callback = fit(network(Dead(), eager=eager), epochs=6)
    assert "broken" == seen_alike(callback.report)
    assert () == callback.report.undecided


@both
def test_a_short_training_says_what_it_saw(eager):
    """As suspected, with the number of records; one record is too few."""
    found = {}
    for epochs in (1, 3):
        found[epochs] = fit(network(Dead(), eager=eager), epochs).report
    assert () == found[1].diagnoses
    (told,) = found[3].diagnoses
    assert ("note", "suspected") == (told.severity, told.certainty)
    assert "seen in all 3 records of this training" in told.evidence["notes"]
    assert "undecided" == seen_alike(found[3])


@both
def test_a_gradient_that_wakes_up_is_healthy(eager):
    """Its zeros of before are no break."""
    callback = fit(network(Late(2), eager=eager), epochs=6)
    assert "healthy" == seen_alike(callback.report)


class OneUnit(keras.layers.Layer):
    """A softmax over an axis of length 1 is 1, whatever comes in."""

    def call(self, x):
        """Returns ones times what came in, whose scores learn nothing."""
        return x * tf.nn.softmax(self.score(x), axis=-1)

    def build(self, shape):
        """Makes the layer of the scores."""
        self.score = keras.layers.Dense(1, name="score")
        self.score.build(shape)


@both
def test_zero_of_any_data_is_told_on_the_first_batch(eager):
    """No patience is needed for what no data could change."""
    callback = GradHealthCallback(every=1)
    with pytest.warns(GradientBreakWarning):
        network(OneUnit(), eager=eager).fit(
            X, Y, batch_size=len(X), verbose=0, callbacks=[callback]
        )
    (found,) = callback.report.diagnoses
    assert ("GG205", 0) == (found.code, found.step)
    assert 2 == len(found.variables)
    assert "broken" == seen_alike(callback.report)


@both
def test_expected_rows_are_healthy(eager):
    """The table says that they are accepted."""
    callback = fit(network(Dead(), eager=eager), expect=["hidden", "head"])
    assert "healthy" == seen_alike(callback.report)
    assert "zero (accepted)" in str(callback.report)


def test_not_checked():
    """No training, a copy's training, no step, no optimizer that is known."""
    callback = GradHealthCallback()
    assert "not checked" == seen_alike(callback.report)
    other = copy.deepcopy(callback)
    network().fit(X, Y, verbose=0, callbacks=[other])
    assert "healthy" == seen_alike(other.report)
    assert "not checked" == seen_alike(callback.report)
    nothing = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4).take(0)
    model, callback = network(), GradHealthCallback()
    try:
        model.fit(nothing, verbose=0, callbacks=[callback])
    except ValueError:
        # Older Keras refuses it, once the training has begun.
        pass
    assert "not checked" == seen_alike(callback.report)
    with pytest.warns(UserWarning, match="saw no update"):
        with watch(network()) as health:
            pass
    assert "not checked" == seen_alike(health.report)


def test_one_batch_is_undecided_about_zeros():
    """`diagnose` does not know whether they last."""
    report = diagnose(network(Dead()), X, Y)
    assert "undecided" == seen_alike(report)
    assert "on this one batch" in str(report)


def a_diagnosis(severity, kind, variables=("a",)):
    """A card that hits the first row."""
    return Diagnosis(
        "GG190",
        "unexplained-cut",
        kind,
        severity,
        "text",
        "why",
        variables=variables,
        num_variables=2,
    )


@pytest.mark.parametrize("not_checked", [None, "A reason."])
@pytest.mark.parametrize("severity", [None, *SEVERITIES])
@pytest.mark.parametrize(
    "statuses", itertools.combinations_with_replacement(STATUSES, 2), ids=str
)
def test_all_views_agree(statuses, severity, not_checked, tmp_path, capsys):
    """Each combination of rows and cards: text, JSON, HTML, exit code."""
    rows = [
        VariableHealth(name, (2,), "float32", status)
        for name, status in zip("ab", statuses, strict=True)
    ]
    cards = () if severity is None else (a_diagnosis(severity, "zero"),)
    rows, undecided = RowVerdicts().decide(rows, cards, 3)
    report = Report(cards, rows, not_checked=not_checked, undecided=undecided)
    verdict = seen_alike(report)
    alarmed = severity in ("error", "warning")
    is_open = any(row.status != "ok" and row.accepted is None for row in rows)
    if alarmed:
        assert "broken" == verdict
    elif not_checked:
        assert "not checked" == verdict
    else:
        assert ("undecided" if is_open else "healthy") == verdict
    # A row that no card hits, and that is not well, is in the open ones.
    for row in rows:
        is_hit = alarmed and row.path == "a"
        is_said = any(row.path in item.variables for item in undecided)
        is_well = row.status == "ok" or row.accepted is not None
        assert is_said is not (is_well or is_hit)
    path = tmp_path / "report.json"
    path.write_text(report.to_json())
    assert (0 if report.ok else 1) == main(["report", str(path)])
    assert f"report: {verdict}" in capsys.readouterr().out


def test_a_row_shows_what_its_card_says():
    """A vanishing gradient is a state of its row."""
    rows = [VariableHealth(n, (2,), "float32", "ok") for n in "ab"]
    cards = [a_diagnosis("warning", "vanishing")]
    decided, _ = RowVerdicts().decide(rows, cards, 3)
    assert ["vanishing", "ok"] == [row.status for row in decided]


def test_plural():
    """`1 warning`, `2 errors`, `1 variable`, `2 variables`."""
    cards = [a_diagnosis("error", "zero")] * 2 + [
        a_diagnosis("warning", "zero")
    ]
    assert "broken: 2 errors, 1 warning" in str(Report(tuple(cards)))
    assert "1 variable got" in str(Undecided("zero", ("a",), "got"))
    assert "2 variables got" in str(Undecided("zero", ("a", "b"), "got"))


@pytest.mark.parametrize("verbose", [0, 1, 2])
def test_a_line_at_the_end(verbose, capsys):
    """`verbose=0` is silent about all that is no error."""
    callback = GradHealthCallback(every=1)
    network().fit(
        X, Y, batch_size=len(X), epochs=3, verbose=verbose, callbacks=[callback]
    )
    lines = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("gradguard:")
    ]
    if not verbose:
        assert [] == lines
        return
    (line,) = lines
    assert line.startswith(
        "gradguard: healthy: 4 variables, 3 steps, 3 records, norm "
    )


def test_line_of_a_loop(capsys):
    """`watch` has one too; it names where to read on."""
    model, optimizer = network(Dead()), keras.optimizers.SGD(0.1)
    with watch(model, optimizer=optimizer, every=1) as health:
        for _ in range(2):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(model(X) - Y))
            variables = model.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)
    assert "undecided" == seen_alike(health.report)
    out = capsys.readouterr().out
    assert out.startswith(
        "gradguard: undecided: 3 variables got a gradient of exactly zero"
    )
    assert out.rstrip().endswith("see the `report` of this `watch`")


def spoiled(number):
    """The data of four batches, of which some have a NaN."""
    x = np.tile(X[:4], (4, 1)).astype("float32")
    x[: 4 * number, 0] = np.nan
    return x, np.tile(Y[:4], (4, 1))


@both
@pytest.mark.parametrize("number", [0, 1, 3, 4])
def test_skipped_steps_are_counted(number, eager, tmp_path):
    """In report, logs and TensorBoard; a loss of no step is NaN, not 0."""
    model = network(eager=eager)
    callback = GradHealthCallback(str(tmp_path), every=1, on_nonfinite="skip")
    x, y = spoiled(number)
    history = model.fit(
        x, y, batch_size=4, shuffle=False, verbose=0, callbacks=[callback]
    ).history
    report = callback.report
    assert (4, number) == (report.num_steps, report.num_skipped)
    assert [number] == history["skipped_steps"]
    assert (number == 4) is bool(np.isnan(history["loss"][0]))
    words = " ".join(str(report).split())
    assert (f"{number} of 4 steps skipped" in words) is bool(number)
    severities = {d.severity for d in report.diagnoses}
    if number > 2:
        (told,) = report.diagnoses
        assert "error" == told.severity
        assert any("skipped" in note for note in told.evidence["notes"])
    assert bool(number) is ("broken" == seen_alike(report))
    assert severities <= {"error"}
    curves = {
        value.tag: value
        for file in tmp_path.rglob("events*")
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    }
    (last,) = [v for tag, v in curves.items() if "skipped_steps" in tag]
    assert number == last.simple_value


def test_a_skipped_epoch_is_not_the_best():
    """`ModelCheckpoint` and `EarlyStopping` ask this of Keras."""
    model = network()
    best = keras.callbacks.EarlyStopping(
        monitor="loss", patience=0, restore_best_weights=True
    )
    guard = GradHealthCallback(on_nonfinite="skip")

    def batches():
        for number in (0, 4, 4):
            x, y = spoiled(number)
            yield from zip(np.split(x, 4), np.split(y, 4), strict=True)

    model.fit(
        batches(),
        steps_per_epoch=4,
        epochs=3,
        verbose=0,
        callbacks=[guard, best],
    )
    assert 1 == best.stopped_epoch
    assert np.isfinite(best.best)


@both
def test_one_count_of_steps(eager, tmp_path):
    """From 0: in a card, its row, the report, the incident, TensorBoard."""
    model = network(eager=eager)
    x, y = spoiled(1)
    x = np.roll(x, 8, axis=0)
    callback = GradHealthCallback(str(tmp_path), every=1)
    model.fit(
        x, y, batch_size=4, shuffle=False, verbose=0, callbacks=[callback]
    )
    report = callback.report
    (told,) = report.diagnoses
    assert 2 == told.step
    assert {3} == {row.step for row in report.variables}
    assert 3 == report.step
    assert ["step_2"] == [p.name for p in (tmp_path / "incidents").iterdir()]
    steps = {
        event.step
        for file in tmp_path.rglob("events*")
        for event in tf.compat.v1.train.summary_iterator(str(file))
        if any("record/" in value.tag for value in event.summary.value)
    }
    assert {0, 1, 2, 3} == steps


def test_patience_of_a_function():
    """Where a function says when a record is due, no step is promised."""
    few = types.SimpleNamespace(
        patience=5, num_zero=lambda path: (2, 2), has_looked_at=lambda p: False
    )
    row = VariableHealth("a", (2,), "float32", "zero")
    for every, said in (
        (3, "step 13 with every=3"),
        (lambda s: True, "consecutive records"),
    ):
        _, (item,) = RowVerdicts(None, few, every).decide([row], (), 4)
        assert item.text.endswith(said)


def test_a_finding_without_a_line():
    """It is warned of where the user has called Keras."""
    model = network()
    model.optimizer.learning_rate = 0.0
    with pytest.warns(GradientBreakWarning) as caught:
        callback = fit(model, epochs=8)
    (told,) = callback.report.diagnoses
    assert told.line is None
    (warned,) = [w for w in caught if w.category is GradientBreakWarning]
    assert __file__ == warned.filename
    assert warned.lineno > 0


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["_LastRecord", "variable_health"])
def test_report_after_a_fault_in_its_rows(name, monkeypatch):
    """Each variable keeps a row, also where nothing could be measured."""
    monkeypatch.setenv("KERAS_GRADGUARD_STRICT", "0")
    calls, whole = [], getattr(rows, name)

    def fails_at_the_end(*arguments):
        calls.append(arguments)
        if len(calls) > (0 if name == "_LastRecord" else 4):
            raise ZeroDivisionError
        return whole(*arguments)

    monkeypatch.setattr(rows, name, fails_at_the_end)
    callback = GradHealthCallback(every=1)
    classifier("mse").fit(X, Y, verbose=0, callbacks=[callback])
    monkeypatch.undo()
    assert "GG900" in callback.report.not_checked
    assert ["unknown"] * 4 == [row.status for row in callback.report.variables]
