"""The verdict that the tab gets is that of the report, of real trainings."""

import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_file_loader import (
    EventFileLoader,
)

from keras_gradguard import GradHealthCallback, watch
from keras_gradguard.records.kinds import VERDICTS
from keras_gradguard.records.text import verdict_facts
from keras_gradguard.report.cards import VERDICT_CARD
from keras_gradguard.report.writer import SummaryWriter
from tests.report.records import write_norms
from tests.report.test_summaries import DIAGNOSIS
from tests.view.board import ROOT
from tests.view.served import Served

pytestmark = [
    pytest.mark.smoke,
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

RUN = "gradients"
_generator = np.random.default_rng(7)
X = _generator.normal(size=(16, 4)).astype("float32")
Y = _generator.normal(size=(16, 3)).astype("float32")


def off(x):
    """No unit of it is ever on, for data like ours."""
    return tf.nn.relu(x - 1000.0)


class Own(keras.Model):
    """Updates its weights without an optimizer."""

    def __init__(self):
        super().__init__()
        self.head = keras.layers.Dense(3, name="head")

    def call(self, x):
        """Returns what the layer makes."""
        return self.head(x)

    def train_step(self, data):
        """Goes down the gradient."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(x) - y))
        weights = self.trainable_variables
        gradients = tape.gradient(loss, weights)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.assign_sub(0.1 * gradient)
        return {"loss": loss}


def network(middle=None):
    layers = [keras.Input((4,)), keras.layers.Dense(4, name="hidden")]
    if middle is not None:
        layers.append(keras.layers.Lambda(middle))
    layers.append(keras.layers.Dense(3, name="head"))
    return keras.Sequential(layers, name="net")


MODELS = {
    "healthy": network,
    "undecided": lambda: network(off),
    "broken": lambda: network(tf.stop_gradient),
    "not checked": Own,
}


def fit(folder, model, x=X, callbacks=(), **arguments):
    """Fits four steps more; returns the report."""
    if not model.compiled:
        model.compile("sgd", "mse")
    guard = GradHealthCallback(log_dir=folder, **{"every": 1, **arguments})
    known = {"batch_size": 4, "shuffle": False, "verbose": 0}
    model.fit(x, Y, callbacks=[guard, *callbacks], **known)
    return guard.report


def loop(folder, model, number=2):
    """Trains in a loop of our own; returns the report."""
    optimizer = keras.optimizers.SGD(0.1)
    is_seen = not isinstance(model, Own)
    with watch(model, folder, every=1, optimizer=optimizer) as health:
        for _ in range(number):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(model(X) - Y))
            variables = model.trainable_variables
            gradients = tape.gradient(loss, variables)
            if is_seen:
                optimizer.apply(gradients, variables)
    return health.report


def told(folder, run=RUN):
    """Returns what the tab gets, the list and the run in the same word."""
    served = Served(folder)
    known = served.json("details", run=run)
    listed = {one["run"]: one for one in served.json("runs")["runs"]}[run]
    assert listed["error"] is None
    title = known["verdict"] and known["verdict"]["title"]
    assert title == listed["verdict"]
    return known


def cards(folder):
    """Returns all verdicts below the Text tab, in order."""
    return [
        value.tensor.string_val[0].decode()
        for path in sorted((folder / RUN).iterdir())
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
        if value.tag == VERDICT_CARD
    ]


@pytest.mark.parametrize("train", [fit, loop])
@pytest.mark.parametrize("word", VERDICTS)
def test_verdict_is_that_of_the_report(word, train, tmp_path):
    """Under Gradients and under Text, in the same words."""
    report = train(tmp_path, MODELS[word]())
    assert word == report.verdict
    known = told(tmp_path)
    verdict = known["verdict"]
    assert (word, word, True) == (
        verdict["verdict"],
        verdict["title"],
        verdict["has_ended"],
    )
    assert verdict_facts(report) == verdict["facts"]
    alarms = [c for c in known["diagnoses"] if c["severity"] != "note"]
    assert (word == "broken") is bool(alarms)
    card = cards(tmp_path)[-1]
    assert card.startswith(f"### Verdict: {word}\n")
    assert len(verdict["facts"]) == card.count("\n- ")
    text = " ".join(verdict["facts"])
    if word == "undecided":
        assert "net/hidden/kernel" in text and "that is, step 4" in text
    if word == "not checked":
        assert report.not_checked in text


def test_skipped_steps_are_told(tmp_path):
    x = X.copy()
    x[5] = np.nan
    report = fit(tmp_path, network(), x, on_nonfinite="skip")
    assert 1 == report.num_skipped
    assert told(tmp_path)["verdict"]["facts"] == [
        "1 error",
        "4 steps, 1 of them skipped",
    ]


def test_missing_row_that_is_healthy_is_accepted(tmp_path):
    """It stands below the verdict as missing, so that says why."""
    report = fit(tmp_path, network(tf.stop_gradient), expect="hidden")
    assert "healthy" == report.verdict
    table = Served(tmp_path).table(RUN)
    paths = [row["key"] for row in table["variables"]]
    missing = [
        p for p, r in zip(paths, table["norms"], strict=True) if r[-1] < 0
    ]
    assert ["net/hidden/kernel", "net/hidden/bias"] == missing
    verdict = told(tmp_path)["verdict"]
    assert {"missing": missing} == verdict["accepted"]
    assert "2 variables missing, accepted (expected)" in verdict["facts"][0]


def test_while_it_runs(tmp_path):
    """There is no verdict before the end; what is broken is so already."""
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda *_, **__: seen.append(
            told(tmp_path)["verdict"]
        )
    )
    fit(tmp_path, network(), callbacks=[look])
    assert 4 == len(seen)
    for known in seen:
        assert ("no verdict yet", False) == (known["title"], known["has_ended"])
        assert ["the training has not ended, or was killed"] == known["facts"]
    assert "healthy" == told(tmp_path)["verdict"]["title"]
    seen.clear()
    fit(tmp_path / "cut", network(tf.stop_gradient))
    cut = network(tf.stop_gradient)
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda *_, **__: seen.append(
            told(tmp_path / "cut")["verdict"]
        )
    )
    fit(tmp_path / "cut", cut, callbacks=[look])
    assert {("broken", False)} == {(v["title"], v["has_ended"]) for v in seen}


def test_nothing_more_is_written_for_more_steps(tmp_path):
    """One with the first record or card and one at the end."""
    fit(tmp_path, network())
    assert 2 == len(cards(tmp_path))
    fit(tmp_path / "cut", network(tf.stop_gradient))
    assert 2 == len(cards(tmp_path / "cut"))


KILLED = """
import sys, time, keras
from tests.view.test_verdict import fit, network

class Wait(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        print("trains", flush=True)
        time.sleep(99)

fit(sys.argv[1], network(), callbacks=[Wait()])
"""


def test_killed_training(tmp_path):
    """It cannot write what it would have been; nothing says it is healthy."""
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True
    ) as training:
        assert "trains\n" == training.stdout.readline()
        training.send_signal(signal.SIGKILL)
    assert "no verdict yet" == told(tmp_path)["verdict"]["title"]
    assert ["### Verdict: no verdict yet"] == [
        card.splitlines()[0] for card in cards(tmp_path)
    ]


def test_run_of_an_earlier_version(tmp_path):
    """Nothing is known, and nothing is said."""
    writer = SummaryWriter(tmp_path)
    write_norms(writer, 0, 1.0, {"a/k": 1.0})
    writer.close()
    assert told(tmp_path)["verdict"] is None


def test_the_last_training_counts(tmp_path):
    """Whatever the one before it was; its cards say that they are earlier."""
    model = network(off)
    fit(tmp_path, model)
    before = told(tmp_path)
    assert [False] == [card["is_earlier"] for card in before["diagnoses"]]
    assert "undecided" == before["verdict"]["title"]
    model.layers[1].function = tf.identity
    model.train_function = None  # traced anew
    fit(tmp_path, model)
    after = told(tmp_path)
    assert "healthy" == after["verdict"]["title"]
    assert [True] == [card["is_earlier"] for card in after["diagnoses"]]
    assert "the last training, from step 4 on" == after["verdict"]["facts"][-1]


def test_training_that_begins_takes_the_verdict_away(tmp_path):
    """Also where the one before it was of a version that writes one."""
    fit(tmp_path, network())
    assert "healthy" == told(tmp_path)["verdict"]["title"]
    writer = SummaryWriter(tmp_path)
    writer.write_diagnosis(0, DIAGNOSIS)
    writer.close()
    known = told(tmp_path)
    assert known["verdict"] is None
    assert ["GG102"] == [card["code"] for card in known["diagnoses"]]


@pytest.mark.parametrize("on_break", ["raise", "stop"])
def test_training_that_we_end(on_break, tmp_path):
    model = network(tf.stop_gradient)
    model.compile("sgd", "mse")
    guard = GradHealthCallback(tmp_path, on_break=on_break)
    try:
        model.fit(X, Y, verbose=0, callbacks=[guard])
    except ValueError:
        assert "raise" == on_break
    verdict = told(tmp_path)["verdict"]
    assert ("broken", True) == (verdict["title"], verdict["has_ended"])
    assert verdict_facts(guard.report) == verdict["facts"]


def test_loop_that_fails(tmp_path):
    """The verdict is that of the steps before it."""
    model, optimizer = network(), keras.optimizers.SGD(0.1)
    with (
        pytest.raises(ZeroDivisionError),
        watch(model, tmp_path, optimizer=optimizer) as health,
    ):
        for number in (2, 1, 0):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(model(X)) / number
            variables = model.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)
            1 // number
    assert told(tmp_path)["verdict"]["title"] == health.report.verdict


def test_fit_that_never_began_leaves_nothing(tmp_path):
    """It is about no gradient, and makes no verdict of before void."""
    model = network()
    model.compile("sgd", "mse")
    guard = GradHealthCallback(tmp_path / "logs")
    with pytest.raises(ValueError):
        model.fit(X[:, :2], Y, verbose=0, callbacks=[guard])
    assert [] == list(tmp_path.iterdir())


def test_guard_that_fails_is_not_checked(tmp_path, monkeypatch):
    """A fault of our own in the middle of a training is told too."""
    monkeypatch.setenv("KERAS_GRADGUARD_STRICT", "0")
    from keras_gradguard.monitor.symptoms import Symptoms

    def fail(self, figures):
        raise RuntimeError("a fault")

    monkeypatch.setattr(Symptoms, "explain", fail)
    report = fit(tmp_path, network())
    assert "not checked" == report.verdict
    verdict = told(tmp_path)["verdict"]
    assert "not checked" == verdict["title"]
    assert "GG900" in verdict["facts"][0] and "a fault" in verdict["facts"][0]
