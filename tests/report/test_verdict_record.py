"""What is written of a verdict: its words, and no more than some bytes."""

import json

import pytest

from keras_gradguard.records.health import VariableHealth
from keras_gradguard.records.kinds import VERDICTS
from keras_gradguard.records.report import Report, Undecided
from keras_gradguard.records.text import verdict_facts
from keras_gradguard.report.cards import render_verdict
from keras_gradguard.report.layout import MOST_ACCEPTED, verdict_record
from tests.report.sample import BARE, CUT

OPEN = Undecided("zero", ("a/__k__", "a/b"), "got exactly zero")
REPORTS = {
    "broken": Report((CUT, BARE), undecided=(OPEN,), num_steps=3),
    "healthy": Report(num_steps=1200, num_skipped=1000),
    "undecided": Report(undecided=(OPEN,), num_steps=3, num_skipped=0),
    "not checked": Report(
        not_checked="No step has updated the model.", num_steps=0
    ),
}


def row(name, status, accepted=None):
    return VariableHealth(name, (2,), "float32", status, accepted=accepted)


@pytest.mark.parametrize("word", VERDICTS)
def test_word_is_that_of_the_report(word):
    assert word == REPORTS[word].verdict
    known = verdict_record(REPORTS[word], has_ended=True)
    assert (word, True) == (known["verdict"], known["has_ended"])
    assert known["facts"] == verdict_facts(REPORTS[word])
    assert known == json.loads(json.dumps(known))


@pytest.mark.parametrize("word", VERDICTS)
def test_no_verdict_before_the_end(word):
    """What is broken is so already; nothing is healthy before its end."""
    known = verdict_record(REPORTS[word], has_ended=False)
    assert known["verdict"] == ("broken" if word == "broken" else None)
    assert "the training has not ended, or was killed" == known["facts"][0]


def test_facts():
    """Cards, reasons, open variables with their names, skipped steps."""
    assert verdict_facts(REPORTS["broken"]) == [
        "1 error, 1 warning",
        "2 variables got exactly zero: a/__k__, a/b",
        "3 steps",
    ]
    steps = "1,200 steps, 1,000 of them skipped"
    assert verdict_facts(REPORTS["healthy"]) == [steps]
    assert ["No step has updated the model.", "0 steps"] == verdict_facts(
        REPORTS["not checked"]
    )


def test_rows_that_are_accepted_are_told():
    """Else a missing row would stand below "healthy" without a word."""
    rows = [row(n, "missing", "expected") for n in "ab"]
    rows += [row("c", "zero", "a reason"), row("d", "ok")]
    report = Report(variables=tuple(rows))
    known = verdict_record(report, has_ended=True)
    assert "healthy" == known["verdict"]
    assert known["facts"] == [
        "2 variables missing, accepted (expected): a, b",
        "1 variable zero, accepted (a reason): c",
    ]
    assert {"missing": ["a", "b"], "zero": ["c"]} == known["accepted"]


def test_size_is_bounded():
    """However many variables there are, and however long a reason is."""
    names = tuple(f"layer{number}/kernel" for number in range(10_000))
    groups = [Undecided("zero", names, f"text {n}") for n in range(500)]
    report = Report(
        variables=tuple(row(name, "missing", "expected") for name in names),
        not_checked="far " * 100_000,
        undecided=tuple(groups),
    )
    known = verdict_record(report, has_ended=True)
    assert len(json.dumps(known)) < 20_000
    assert 20 == len(known["facts"])
    assert known["facts"][0].endswith("far far…")
    assert known["facts"][1].endswith("layer7/kernel, ... (+9992 more)")
    # 1 reason, 500 groups and 1 of accepted rows, of which 19 are shown.
    assert "(+483 more)" == known["facts"][-1]
    assert MOST_ACCEPTED == len(known["accepted"]["missing"])


def test_text_is_one_printable_line():
    """An exception may have put anything into a reason."""
    reason = "a\n\tb \x1b[2J\x00 \u202e \udcff <b>"
    known = verdict_record(Report(not_checked=reason), has_ended=True)
    assert ["a b \ufffd[2J\ufffd \ufffd \ufffd <b>"] == known["facts"]


def test_card():
    """Letter for letter; names are no Markdown."""
    known = verdict_record(REPORTS["undecided"], has_ended=True)
    assert render_verdict(known) == (
        "### Verdict: undecided\n\n"
        "- 2 variables got exactly zero: a/\\_\\_k\\_\\_, a/b\n"
        "- 3 steps"
    )
    known = verdict_record(Report(), has_ended=False)
    assert render_verdict(known) == (
        "### Verdict: no verdict yet\n\n"
        "- the training has not ended, or was killed"
    )
