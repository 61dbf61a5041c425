"""The checked patch of each rule's page corrects the page."""

import pytest

from keras_gradguard.advice.fix import file_patches, fixed
from tests.rules.test_bad_and_good import GOLDEN, SHOWN, bad_run, load, run

TEXTS = {rule.code: (GOLDEN / f"{rule.code}.txt").read_text() for rule in SHOWN}
PATCHED = [rule for rule in SHOWN if "(checked:" in TEXTS[rule.code]]


def test_most_pages_with_a_line_have_one():
    """The stored texts are those of the pages, see `test_bad_and_good`.

    A note is of what may be as it was meant.
    """
    with_line = [
        text
        for text in TEXTS.values()
        if "-->" in text and not text.startswith("note")
    ]
    assert len(PATCHED) >= 0.7 * len(with_line)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("rule", PATCHED, ids=lambda rule: rule.code)
def test_patched_page_trains(rule, tmp_path):
    """Its finding is gone, and what it hit gets a gradient."""
    callback, _ = bad_run(rule, False, tmp_path)
    told = next(d for d in callback.report.diagnoses if d.code == rule.code)
    patch = told.help[0].patch
    _, text = fixed(patch.file, file_patches(callback.report)[patch.file])
    module = load(text, tmp_path, f"{rule.name.replace('-', '_')}_patched")
    callback, error = run(module, getattr(module, "EAGER", False))
    assert error is None
    assert rule.code not in [d.code for d in callback.report.diagnoses]
    rows = {row.path: row.status for row in callback.report.variables}
    hit = {rows[path] for path in told.variables if path in rows}
    assert hit <= {"ok", "unknown"}
