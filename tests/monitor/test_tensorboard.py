"""What `fit` leaves in the log folder, read back as TensorBoard reads it."""

import pathlib

import pytest
from tensorboard.backend.event_processing.event_file_loader import (
    EventFileLoader,
)
from tensorboard.util import tensor_util

from keras_gradguard import GradGuardLoss
from keras_gradguard.report.cards import VERDICT_CARD
from tests.diagnosis.test_places import compiled_helper, in_function
from tests.fitting import MODES, NAMES, X, Y, classifier, fit, marked

pytestmark = pytest.mark.smoke


def events(folder):
    """All events with values below a folder, but for those of verdicts."""
    found = []
    for path in sorted(pathlib.Path(folder).rglob("*tfevents*")):
        assert "gradients" == path.parent.name
        found += [
            event
            for event in EventFileLoader(str(path)).Load()
            if event.summary.value and not is_verdict(event)
        ]
    return found


def is_verdict(event):
    """Whether an event holds a verdict, which tests/view looks at."""
    return event.summary.value[0].tag == VERDICT_CARD


def test_healthy_run(tmp_path):
    """One event a record, every variable in it, no card."""
    model = classifier("mse")
    callback, _ = fit(model, log_dir=tmp_path, every=2)
    model.fit(X, Y, batch_size=4, verbose=0, callbacks=[callback])
    found = events(tmp_path)
    assert [0, 1, 3] == [event.step for event in found]
    for event in found:
        tags = {value.tag for value in event.summary.value}
        paths = {row.path for row in callback.report.variables}
        assert {f"gradients/{path}" for path in paths} <= tags
        assert "gradients/global_norm" in tags
        assert not any("gradients/diagnoses" in tag for tag in tags)
    last = {
        value.tag: tensor_util.make_ndarray(value.tensor)
        for value in found[-1].summary.value
    }
    assert callback.report.global_norm == pytest.approx(
        float(last["gradients/global_norm"]), rel=1e-6
    )
    for row in callback.report.variables:
        assert row.norm == pytest.approx(float(last[f"gradients/{row.path}"]))


@pytest.mark.parametrize("guarded", [False, True], ids=["callback", "both"])
@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_card_of_a_fit_that_ends_by_an_exception(guarded, eager, tmp_path):
    """The diagnosis is on disk though `on_train_end` never came."""
    loss = GradGuardLoss(in_function) if guarded else in_function
    _, error = fit(classifier(loss, eager), log_dir=tmp_path)
    assert error is not None
    (event,) = events(tmp_path)
    card, for_tab = event.summary.value
    assert for_tab.tag.startswith("gradguard/diagnoses/")
    assert "text" == card.metadata.plugin_data.plugin_name
    text = tensor_util.make_ndarray(card.tensor).item().decode()
    line = marked(compiled_helper.python_function)[1]
    assert "GG102" in text
    assert f"test_places.py:{line}" in text
    assert "soft > 0.5" in text


def test_no_folder_without_log_dir(tmp_path, monkeypatch):
    """Nothing is written where nothing was asked for."""
    monkeypatch.chdir(tmp_path)
    fit(classifier("mse"))
    assert [] == list(tmp_path.iterdir())
