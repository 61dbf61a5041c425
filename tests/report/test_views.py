"""No view of a record drops a field; a report shows every variable."""

import dataclasses

import pytest

from keras_gradguard.records.health import VariableHealth
from keras_gradguard.records.kinds import SCHEMA
from keras_gradguard.records.reading import report_of
from keras_gradguard.records.report import Diagnosis, Help, Report
from keras_gradguard.records.text import render, render_report
from keras_gradguard.report.cards import render_markdown
from tests.report.sample import BARE, CUT


def sentinels():
    """A diagnosis whose every field holds a value found nowhere else."""
    values = {}
    for field in dataclasses.fields(Diagnosis):
        values[field.name] = f"the_{field.name}"
    values.update(
        help=(Help("helpText", "helpBefore", "helpAfter"),),
        line=4321,
        snippet=("snippetFirst", "snippetLast"),
        variables=("variables/first", "variables/last"),
        num_variables=876,
        path=("PathFirst", "PathLast"),
        step=5551,
        epoch=6661,
        evidence={
            "snippet_start": 4320,
            "notes": ["notesFirst", "notesLast"],
            "exception": "exceptionType",
            "error": "errorText",
            "figure": 0.125,
            "list": [11.5, "x9"],
            "nothing": None,
        },
        certainty="suspected",
        schema=SCHEMA + 770,
    )
    return Diagnosis(**values)


def leaves(value):
    """Yields the values inside a record, as the texts to look for."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item)
            if key in ("figure", "list", "nothing"):
                yield key
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves(item)
    else:
        yield str(value)


@pytest.mark.parametrize("renderer", [render, render_markdown])
@pytest.mark.parametrize(
    "field", [field.name for field in dataclasses.fields(Diagnosis)]
)
def test_no_field_is_dropped(renderer, field):
    """Every field of the record can be read in every view."""
    diagnosis = sentinels()
    text = renderer(diagnosis)
    wanted = list(leaves(diagnosis.to_dict()[field]))
    assert wanted
    assert [item for item in wanted if item not in text] == []


def rows(report):
    """Returns the part of a rendered report that follows the diagnoses."""
    return render_report(report).rpartition("\n\n")[2].splitlines()


def test_render_report():
    """Diagnoses, one summary, and the broken variables before the others."""
    variables = (
        VariableHealth("hidden/kernel", (4, 8), "float32", "ok", 0.25, 7),
        VariableHealth("hidden/bias", (8,), "float32", "zero", 0.0, 7),
        VariableHealth("head/kernel", (8, 3), "float16", "missing"),
        VariableHealth("scale", (), "float32", "nonfinite", float("nan"), 7),
        VariableHealth("late", (2,), "float32"),
    )
    report = Report((CUT, BARE), variables, 1.23456, 7)
    text = render_report(report)
    assert text.startswith(f"{render(CUT)}\n\n{render(BARE)}\n\nreport: ")
    assert rows(report) == [
        "report: broken: 1 error, 1 warning; 5 trainable variables: 1 ok, "
        "1 missing, 1",
        "        zero, 1 nonfinite, 1 unknown; step 7; global norm 1.235",
        "variable       shape   dtype    status     norm  step",
        "head/kernel    (8, 3)  float16  missing    -     -",
        "hidden/bias    (8,)    float32  zero       0     7",
        "scale          ()      float32  nonfinite  nan   7",
        "late           (2,)    float32  unknown    -     -",
        "hidden/kernel  (4, 8)  float32  ok         0.25  7",
    ]


def test_render_report_with_nothing_to_say():
    """An empty report is one line."""
    assert render_report(Report()) == "report: healthy"


def test_render_report_of_what_nobody_saw():
    """A step that never calls an optimizer is not said to be healthy."""
    rows_of = (VariableHealth("late", (1,), "float32", "unknown"),)
    assert render_report(Report((), rows_of)).startswith(
        "report: undecided; 1 trainable variable: 1 unknown"
    )


def test_report_of_what_was_not_checked():
    """It is not well, no view says so, and each gives the reason."""
    reason = "the Keras backend is " + "far " * 20 + "away"
    report = Report(not_checked=reason)
    assert not report.ok
    assert str(report).splitlines()[0] == "report: not checked"
    assert " ".join(str(report).split()).endswith(f"= why: {reason}")
    assert "not checked" in report._repr_html_()
    values = report.to_dict()
    assert (values["ok"], values["not_checked"]) == (False, reason)
    assert report_of(values) == report
    del values["not_checked"]
    assert report_of(values) == Report()
    with pytest.raises(TypeError, match="not_checked"):
        report_of({**values, "not_checked": 1})


def test_render_report_of_what_was_checked_in_part():
    """What was found all the same stands beside the reason."""
    seen = (VariableHealth("seen", (1,), "float32", "ok", 0.5, 3),)
    assert rows(Report((CUT,), seen, not_checked="a reason"))[:2] == [
        "report: broken: 1 error, the rest not checked; 1 trainable variable: "
        "1 ok",
        "   = why:  a reason",
    ]
    assert rows(Report((), seen, not_checked="a reason"))[:2] == [
        "report: not checked; 1 trainable variable: 1 ok",
        "   = why:  a reason",
    ]


def test_render_report_limits_its_rows():
    """Twenty rows, the broken one among them, and a count of the rest."""
    healthy = [
        VariableHealth(f"v{n}", (1,), "float32", "ok") for n in range(30)
    ]
    broken = VariableHealth("broken", (1,), "float32", "missing")
    lines = rows(Report((), (*healthy, broken)))
    assert len(lines) == 2 + 20 + 1
    assert lines[2].startswith("broken ")
    assert lines[-1] == "(+11 more)"
