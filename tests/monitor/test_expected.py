"""`expect`: patterns of variables, and baseline files."""

import dataclasses
import importlib.util
import json
import os
import re
import tempfile
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import (
    GradGuardLoss,
    GradHealthCallback,
    GradientBreakError,
    GradientBreakWarning,
)
from keras_gradguard.expected import AUXILIARY_HEAD, POOLER, Expected
from tests.fitting import X, Y, classifier, fit

LOSS = """\
import tensorflow as tf


def rounded(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_true - tf.round(y_pred)))


def steps(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_true - tf.floor(y_pred)))
"""


def losses(folder, text=LOSS):
    """Imports the losses from a file of their own."""
    folder.mkdir(exist_ok=True)
    file = folder / "my_losses.py"
    file.write_text(text)
    spec = importlib.util.spec_from_file_location("my_losses", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def two_heads(loss, left="left"):
    """A model with a head that learns by mse and one with another loss."""
    inputs = keras.Input((4,))
    body = keras.layers.Dense(8, name="body")(inputs)
    heads = [keras.layers.Dense(3, name=n)(body) for n in (left, "right")]
    model = keras.Model(inputs, heads, name="net")
    model.compile("sgd", loss=[loss, "mse"])
    return model


def two_fit(model, **arguments):
    """Fits it, and keeps what is warned of."""
    callback = GradHealthCallback(**{"every": 1, **arguments})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(
            X, [Y, Y], batch_size=4, verbose=0, callbacks=[callback], epochs=2
        )
    ours = [w for w in caught if w.category is GradientBreakWarning]
    return callback, [str(warning.message) for warning in ours]


def accepted(tmp_path, callback):
    """Stores a report as the documentation says."""
    file = tmp_path / "accepted.json"
    file.write_text(callback.report.to_json())
    return file


@pytest.fixture
def baseline(tmp_path):
    """A file that accepts the cut of the left head."""
    model = two_heads(losses(tmp_path / "here").rounded)
    callback, told = two_fit(model)
    assert 1 == len(told)
    assert not callback.report.ok
    return accepted(tmp_path, callback)


MOVED = "# A line\n# and another one.\n" + LOSS.replace("    ret", "      ret")


@pytest.mark.parametrize("action", ["warn", "raise", "stop"])
def test_accepted_break_is_a_note(tmp_path, baseline, action):
    """On a moved line of a file elsewhere it is remembered, without alarm."""
    model = two_heads(losses(tmp_path / "there", MOVED).rounded)
    callback, told = two_fit(model, expect=baseline, on_break=action)
    assert [] == told
    (kept,) = callback.report.diagnoses
    assert ("GG105", "note") == (kept.code, kept.severity)
    assert {"left/kernel", "left/bias"} <= set(kept.variables)
    assert "there" in kept.file
    assert "accepted in accepted.json" in str(callback.report)
    assert callback.report.ok
    statuses = {row.path: row.status for row in callback.report.variables}
    assert "missing" == statuses["left/kernel"]
    assert not model.stop_training
    again = accepted(tmp_path, callback)
    assert [] == two_fit(model, expect=[again])[1]


@pytest.mark.parametrize(
    "change",
    [
        {"text": LOSS.replace("y_true - ", "y_true + ")},
        {"text": LOSS.replace("rounded", "another")},
        {"loss": "steps"},
        {"left": "other"},
    ],
    ids=["line", "function", "op", "variables"],
)
def test_another_break_is_new(tmp_path, baseline, change):
    """Another line, function, op or variable is no accepted one."""
    module = losses(tmp_path / "there", change.get("text", LOSS))
    default = "another" if hasattr(module, "another") else "rounded"
    loss = getattr(module, change.get("loss", default))
    model = two_heads(loss, change.get("left", "left"))
    callback, told = two_fit(model, expect=baseline)
    assert 1 == len(told)
    assert not callback.report.ok
    with pytest.raises(GradientBreakError):
        model.fit(
            X,
            [Y, Y],
            verbose=0,
            callbacks=[GradHealthCallback(expect=baseline, on_break="raise")],
        )


class Cut(keras.layers.Layer):
    """Rounds one of its inputs, or both on the same line."""

    is_deep = False

    def call(self, one, two):
        return tf.round(one + two) if self.is_deep else tf.round(one) + two


class Deepening(keras.callbacks.Callback):
    """Lets the cut go deeper after the first step."""

    def on_train_batch_end(self, batch, logs=None):
        self.model.get_layer("cut").is_deep = True


def cut_model():
    """An eager model whose `one` is cut and whose `two` may be."""
    inputs = keras.Input((4,))
    one, two = (keras.layers.Dense(3, name=n)(inputs) for n in ("one", "two"))
    outputs = keras.layers.Dense(3, name="head")(Cut(name="cut")(one, two))
    model = keras.Model(inputs, outputs, name="net")
    model.compile("sgd", loss="mse", run_eagerly=True)
    return model


def test_break_that_grows_is_new(tmp_path):
    """The accepted line loses one variable more in the second step."""
    first, _ = fit(cut_model())
    file = accepted(tmp_path, first)
    callback = GradHealthCallback(every=1, expect=file)
    with pytest.warns(GradientBreakWarning) as caught:
        cut_model().fit(
            X, Y, batch_size=4, verbose=0, callbacks=[Deepening(), callback]
        )
    assert 1 == len([w for w in caught if w.category is GradientBreakWarning])
    (known,) = callback.report.diagnoses
    assert ("GG105", "warning") == (known.code, known.severity)
    assert ["one", "one", "two", "two"] == [
        path.split("/")[0] for path in known.variables
    ]


def jumping(y_true, y_pred):
    """The formula changes by one where the prediction passes zero."""
    error = tf.square(y_true - y_pred)
    return tf.reduce_mean(tf.where(y_pred > 0, error + 1.0, error))


def times_zero(y_true, y_pred):
    """Nothing learns."""
    return tf.reduce_mean(tf.square(y_true - 0.0 * y_pred))


@pytest.mark.parametrize(
    ("loss", "code"), [(jumping, "GG241"), (times_zero, "GG206")]
)
def test_what_the_numbers_show_is_accepted_too(loss, code, tmp_path):
    """A jump and a gradient of zero, once warned of, are notes later."""
    thresholds = {"patience": 2}
    first, told = two_fit(two_heads(loss), thresholds=thresholds)
    assert [code] == [d.code for d in first.report.diagnoses]
    assert 1 == len(told)
    later, told = two_fit(
        two_heads(loss),
        thresholds=thresholds,
        expect=accepted(tmp_path, first),
        on_break="raise",
    )
    assert [] == told
    assert [(code, "note")] == [
        (d.code, d.severity) for d in later.report.diagnoses
    ]


def test_cut_of_everything_ends_training_all_the_same(tmp_path):
    """Keras cannot go on, so the exception still says why."""
    loss = losses(tmp_path / "here").rounded
    first, error = fit(classifier(loss))
    assert isinstance(error, GradientBreakError)
    file = accepted(tmp_path, first)
    callback, error = fit(classifier(loss), expect=file)
    assert "error[GG105]" in str(error)
    assert not callback.report.ok


def test_step_that_is_not_finite_is_never_accepted(tmp_path):
    """What to do with it is a matter of `on_nonfinite`."""
    x = np.array(X)
    x[3, 2] = np.nan
    first, _ = fit(classifier("mse"), x=x)
    file = accepted(tmp_path, first)
    assert "GG221" in file.read_text()
    callback, error = fit(
        classifier("mse"), x=x, expect=file, on_nonfinite="raise"
    )
    assert isinstance(error, GradientBreakError)
    assert "GG221" in str(error)


def test_wrapper_keeps_to_the_file(tmp_path):
    """`GradGuardLoss` raises a new break, and not an accepted one."""
    loss = losses(tmp_path / "here").rounded
    callback = GradHealthCallback(every=1)
    with pytest.raises(GradientBreakError):
        two_heads(GradGuardLoss(loss)).fit(
            X, [Y, Y], verbose=0, callbacks=[callback]
        )
    file = accepted(tmp_path, callback)
    callback, told = two_fit(two_heads(GradGuardLoss(loss)), expect=file)
    assert [] == told
    assert ["note"] == [d.severity for d in callback.report.diagnoses]


def test_patterns_and_files_together(tmp_path, baseline):
    """Each is asked; what neither knows is an alarm."""
    module = losses(tmp_path / "there")
    model = two_heads(module.rounded)
    model.compile("sgd", loss=[module.rounded, module.steps])
    with pytest.raises(GradientBreakError, match="right/kernel"):
        two_fit(model, expect=[r"body/", baseline], on_break="raise")


def rewritten(stored_file, **changes):
    """Changes fields of the diagnoses of a stored report."""
    values = json.loads(stored_file.read_text())
    for diagnosis in values["diagnoses"]:
        diagnosis.update(changes)
    stored_file.write_text(json.dumps(values))
    return Expected(stored_file)


def cell(name):
    """Returns a file where a notebook's kernel puts its cells."""
    return os.path.join(tempfile.gettempdir(), name)


@pytest.mark.parametrize(
    ("stored", "now", "is_known"),
    [
        (r"C:\Users\me\my_losses.py", "/home/you/my_losses.py", True),
        (r"C:\Users\me\my_losses.py", "/home/you/losses.py", False),
        (cell("ipykernel_7/12.py"), cell("ipykernel_890/3456.py"), True),
        (cell("ipykernel_7/12.py"), cell("12.py"), False),
    ],
)
def test_files_of_other_machines(tmp_path, baseline, stored, now, is_known):
    """Only the base name counts, and one cell is as good as another."""
    callback, _ = two_fit(two_heads(losses(tmp_path / "there").rounded))
    (found,) = callback.report.diagnoses
    found = dataclasses.replace(found, file=now)
    everything, new = rewritten(baseline, file=stored).accept([found])
    assert is_known == (new == ())
    assert [is_known] == [d.severity == "note" for d in everything]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot read"),
        ("{", "is not a JSON file"),
        ("[]", "there is no report with a `schema` in it"),
        ('{"mine": 1}', "there is no report with a `schema` in it"),
        ('{"schema": 1}', "no list of `diagnoses`"),
        ('{"schema": "one"}', "it has the schema 'one'"),
        ('{"schema": 99, "diagnoses": []}', "later version of keras_gradguard"),
        ('{"schema": 1, "diagnoses": [{"schema": 1}]}', "it has no `code`"),
        ('{"schema": 1, "diagnoses": ["GG105"]}', "no diagnosis"),
    ],
)
def test_files_that_are_no_report(tmp_path, text, words):
    """The error names the file, what is wrong, and how to make one."""
    file = tmp_path / "accepted.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        GradHealthCallback(expect=["pooler/", file])
    assert str(file) in str(caught.value)
    assert "write_text(callback.report.to_json())" in str(caught.value)


@pytest.mark.parametrize("expect", [3, [None], b"pooler/", ["a", "pooler("]])
def test_neither_pattern_nor_file(expect):
    """The error says what may be given."""
    with pytest.raises(ValueError, match=r"`pathlib.Path`s of baseline files"):
        GradHealthCallback(expect=expect)


def test_a_pattern_alone():
    """As a text or compiled."""
    for pattern in ("hidden/", re.compile("HIDDEN/", re.IGNORECASE)):
        assert Expected(pattern).covers("net/hidden/kernel")


POOLERS = [
    "tf_bert_model/bert/pooler/dense/kernel",
    "tf_roberta_for_sequence_classification/roberta/pooler/dense/bias",
    "tf_albert_model/albert/pooler/kernel",
    "albert_model/pooler_transform/bias",
    "pooled_dense/kernel",
    "bert_backbone/pooled_dense/bias#2",
]
NO_POOLERS = [
    "pooler/kernel",
    "pooler/dense/kernel",
    "my_pooler/dense/kernel",
    "bert/pooler/attention/kernel",
    "bert/pooler/dense/kernel/adapter",
    "bert/pooler/dense_1/kernel",
    "bert/my_pooler/kernel",
    "max_pooler_transform/kernel",
    "unpooled_dense/kernel",
    "pooled_dense_2/kernel",
    "bert/encoder/layer_0/output/dense/kernel",
]
HEADS = [
    "InceptionV3/AuxLogits/Conv2d_1b_1x1/weights",
    "googlenet/aux_logits/kernel",
    "aux_1/conv/kernel",
    "aux2/fc/bias",
    "auxiliary_output_1/kernel",
    "auxiliary_head/convs/0/kernel",
    "net/auxiliary_classifier/dense/kernel",
]
NO_HEADS = [
    "auxiliary_encoder/kernel",
    "aux_input_dense/kernel",
    "aux_fc/kernel",
    "aux/kernel",
    "flux_head/kernel",
    "my_aux_1/kernel",
    "head/aux_1",
    "auxiliary_outputs_layer/kernel",
    "auxin_1/kernel",
    "logits/kernel",
]


@pytest.mark.parametrize(
    ("pattern", "known", "unknown"),
    [
        (POOLER, POOLERS, [*NO_POOLERS, *HEADS, *NO_HEADS]),
        (AUXILIARY_HEAD, HEADS, [*NO_HEADS, *POOLERS, *NO_POOLERS]),
    ],
    ids=["pooler", "auxiliary_head"],
)
def test_ready_made_patterns(pattern, known, unknown):
    """They find the names that people meet, and no others."""
    expected = Expected(pattern)
    assert known == [path for path in known if expected.covers(path)]
    assert [] == [path for path in unknown if expected.covers(path)]


def test_unused_pooler_of_a_model_is_no_alarm():
    """An encoder with token outputs and a pooler that nobody asks."""
    tokens = keras.Input((5, 4))
    hidden = keras.layers.Dense(8, name="encoder")(tokens)
    pooled = keras.layers.Dense(8, name="pooled_dense")(hidden[:, 0])
    encoder = keras.Model(tokens, [hidden, pooled], name="bert")
    scores = keras.layers.Dense(3, name="head")(encoder(tokens)[0])
    model = keras.Model(tokens, scores, name="tagger")
    model.compile("sgd", "mse")
    x, y = np.ones((4, 5, 4)), np.ones((4, 5, 3))
    for expect, number in (((), 1), (POOLER, 0), ([AUXILIARY_HEAD], 1)):
        callback, _ = fit(model, x, y, expect=expect)
        assert number == len(callback.report.diagnoses)
    statuses = {row.path: row.status for row in callback.report.variables}
    assert "missing" == statuses["pooled_dense/kernel"]
