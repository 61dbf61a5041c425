"""What the renderers say, letter for letter."""

import dataclasses
import pathlib

import pytest

from keras_gradguard.records import (
    SCHEMA,
    Diagnosis,
    Help,
    Report,
    VariableHealth,
)
from keras_gradguard.report.text import (
    render,
    render_markdown,
    render_report,
)

NAMES = ("hidden/kernel", "hidden/bias", "head/kernel", "head/bias")
CUT = Diagnosis(
    code="GG102",
    name="comparison",
    kind="disconnected",
    severity="error",
    message="`Greater` turns numbers into true and false",
    why=(
        "True and false cannot change by a little, so there is no gradient; "
        "a cast back to float32 does not restore one."
    ),
    help=(
        Help(
            "keep the score soft",
            "hard = tf.cast(y_pred > 0.5, tf.float32)",
            "soft = tf.sigmoid(10.0 * (y_pred - 0.5))",
        ),
        Help("or compare\nin a metric", after="def metric(y_true, y_pred):\n"),
    ),
    file="train.py",
    line=12,
    function="my_loss",
    snippet=(
        "def my_loss(y_true, y_pred):",
        "    hard = tf.cast(y_pred > 0.5, tf.float32)",
        "",
    ),
    op="Greater",
    loss="mse",
    variables=tuple(f"sequential/{name}" for name in NAMES),
    num_variables=4,
    path=("Mean", "Abs", "Sub", "Cast", "Greater"),
    step=0,
    epoch=0,
    evidence={
        "snippet_start": 11,
        "notes": ["`Cast` on the same line would cut it as well"],
        "norms": [0.0, 1.23456e-9],
    },
)
CUT_TEXT = """\
error[GG102] comparison: `Greater` turns numbers into true and false
  --> train.py:12 in my_loss
   |
 11 | def my_loss(y_true, y_pred):
>12 |     hard = tf.cast(y_pred > 0.5, tf.float32)
 13 |
   |
   = path: loss <- Mean <- Abs <- Sub <- Cast <- Greater <-X- (variables)
   = lost: 4 of 4 trainable variables: hidden/kernel, hidden/bias, head/kernel,
           head/bias
   = why:  True and false cannot change by a little, so there is no gradient; a
           cast back to float32 does not restore one.
   = note: `Cast` on the same line would cut it as well
   = data: kind=disconnected, certainty=proved, op=Greater, loss=mse, step=0,
           epoch=0, norms=[0, 1.235e-09]
help: keep the score soft
   - hard = tf.cast(y_pred > 0.5, tf.float32)
   + soft = tf.sigmoid(10.0 * (y_pred - 0.5))
help: or compare in a metric
   + def metric(y_true, y_pred):
more: python -m keras_gradguard explain GG102"""
CUT_MARKDOWN = """\
### error[GG102] comparison: `Greater` turns numbers into true and false

`train.py:12 in my_loss`

```
 11 | def my_loss(y_true, y_pred):
>12 |     hard = tf.cast(y_pred > 0.5, tf.float32)
 13 |
```

**path:** `loss <- Mean <- Abs <- Sub <- Cast <- Greater <-X- (variables)`

**lost:** 4 of 4 trainable variables

- `sequential/hidden/kernel`
- `sequential/hidden/bias`
- `sequential/head/kernel`
- `sequential/head/bias`

**why:** True and false cannot change by a little, so there is no gradient; \
a cast back to float32 does not restore one.

**note:** `Cast` on the same line would cut it as well

**data:** `kind=disconnected, certainty=proved, op=Greater, loss=mse, \
step=0, epoch=0, norms=[0, 1.235e-09]`

**help:** keep the score soft

```
- hard = tf.cast(y_pred > 0.5, tf.float32)
+ soft = tf.sigmoid(10.0 * (y_pred - 0.5))
```

**help:** or compare in a metric

```
+ def metric(y_true, y_pred):
```

**more:** `python -m keras_gradguard explain GG102`"""
BARE = Diagnosis(
    code="GG190",
    name="unexplained-cut",
    kind="untraceable",
    severity="warning",
    message="the gradient ends here, the cause is not known",
    why="No rule knows.",
)


def rows(report):
    """Returns the part of a rendered report that follows the diagnoses."""
    return render_report(report).rpartition("\n\n")[2].splitlines()


def line_with(text, diagnosis):
    """Returns the rendered line that holds some text."""
    (line,) = [n for n in render(diagnosis).splitlines() if text in n]
    return line


def test_render():
    """The whole message, as in the style sheet's template."""
    assert render(CUT) == CUT_TEXT


def test_render_markdown():
    """The whole card."""
    assert render_markdown(CUT) == CUT_MARKDOWN


def test_records_print_themselves():
    """`str` of a record is the rendered text."""
    assert str(CUT) == render(CUT)
    assert str(Report((CUT,))) == render_report(Report((CUT,)))


def test_render_without_a_place():
    """No line of the user, no arrow and no snippet."""
    assert (
        render(BARE)
        == """\
warning[GG190] unexplained-cut: the gradient ends here, the cause is not known
   = why:  No rule knows.
   = data: kind=untraceable, certainty=proved
more: python -m keras_gradguard explain GG190"""
    )


def test_render_without_source():
    """A place whose source is gone keeps its arrow."""
    lines = render(dataclasses.replace(CUT, snippet=())).splitlines()
    assert lines[1] == "  --> train.py:12 in my_loss"
    assert lines[2].startswith("   = path: ")


def test_margin_grows_with_the_line_numbers():
    """Four digits move the margin, the marks stay in line."""
    evidence = {"snippet_start": 999}
    late = dataclasses.replace(CUT, line=1000, evidence=evidence)
    lines = render(late).splitlines()
    assert lines[1:6] == [
        "    --> train.py:1000 in my_loss",
        "     |",
        "  999 | def my_loss(y_true, y_pred):",
        ">1000 |     hard = tf.cast(y_pred > 0.5, tf.float32)",
        " 1001 |",
    ]
    assert lines[7].startswith("     = path: ")


def test_file_is_shown_from_the_current_directory():
    """A file below it loses the folder, another one keeps it."""
    below = pathlib.Path.cwd() / "models" / "train.py"
    above = pathlib.Path.cwd().parent / "train.py"
    for file, shown in ((below, "models/train.py"), (above, str(above))):
        diagnosis = dataclasses.replace(CUT, file=str(file))
        arrow = render(diagnosis).splitlines()[1]
        assert arrow == f"  --> {pathlib.PurePath(shown)}:12 in my_loss"


def test_suspicion_is_said_in_words():
    """A guess is never printed as a fact."""
    guess = dataclasses.replace(CUT, certainty="suspected")
    assert "= note: suspected, not proved: " in render(guess)
    assert "suspected, not proved" in render_markdown(guess)
    assert "suspected" not in render(CUT)


def test_exception_is_a_note():
    """What TensorFlow raised belongs to the story."""
    evidence = {"exception": "TypeError", "error": "must be real number"}
    failed = dataclasses.replace(BARE, evidence=evidence)
    line = line_with("must be", failed)
    assert line == "   = note: TypeError: must be real number"


def test_many_variables_are_counted():
    """Eight names are shown in a terminal, all of them in a card."""
    paths = tuple(f"block{n}/kernel" for n in range(11))
    many = dataclasses.replace(CUT, variables=paths, num_variables=30)
    text = " ".join(render(many).split())
    assert "11 of 30 trainable variables: block0/kernel, " in text
    assert "block7/kernel, ... (+3 more) = why:" in text
    assert all(f"- `{path}`" in render_markdown(many) for path in paths)


@pytest.mark.parametrize(
    ("paths", "number", "shown"),
    [
        (("m/a/kernel", "m/b/kernel"), 2, "a/kernel, b/kernel"),
        (("m/a/kernel", "m/b/kernel"), 3, "m/a/kernel, m/b/kernel"),
        (("a/kernel", "a/bias"), 2, "a/kernel, a/bias"),
        (("m/a/kernel", "n/b/kernel"), 2, "m/a/kernel, n/b/kernel"),
        (("m/a/kernel", "m/scale"), 2, "m/a/kernel, m/scale"),
    ],
)
def test_only_a_models_name_is_left_out(paths, number, shown):
    """A layer's name is needed to tell its variables from another's."""
    cut = dataclasses.replace(CUT, variables=paths, num_variables=number)
    assert line_with("= lost:", cut).endswith(f"variables: {shown}")


def test_prose_is_wrapped_and_source_is_not():
    """Long words and source lines are left whole."""
    source = "    hard = tf.cast(y_pred > 0.5, tf.float32)" + "  # why" * 9
    long = dataclasses.replace(
        CUT,
        message="word " * 30,
        why="word " * 60,
        snippet=(source,),
        evidence={"snippet_start": 12, "notes": ["note " * 40]},
        help=(Help("mend " * 40, before=source),),
    )
    for width in (60, 80):
        lines = render(long, width).splitlines()
        wide = [line for line in lines if len(line) > width]
        assert wide == [f">12 | {source}", f"   - {source}"]


def test_render_is_ascii():
    """No box characters, which some terminals cannot print."""
    assert render(CUT).isascii()
    assert render_report(Report((CUT,))).isascii()


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


def test_function_without_a_file_is_kept():
    """Where there is no arrow the function's name stands in the data."""
    diagnosis = dataclasses.replace(CUT, file=None, line=None)
    assert "function=my_loss" in render(diagnosis)
    assert "-->" not in render(diagnosis)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("uses __init__ here", r"uses \_\_init\_\_ here"),
        ("my_loss of `__init__`", "my_loss of `__init__`"),
        ("a * b", r"a \* b"),
        ("![x](https://a.b)", r"![x\](https://a.b)"),
        ("`a|b` | c", "`a|b` | c"),
        ("one ` only", r"one \` only"),
        ("a\n\n# b", "a # b"),
    ],
)
def test_prose_is_safe_in_markdown(text, shown):
    """Names are not read as emphasis, links or headings."""
    card = render_markdown(dataclasses.replace(CUT, why=text))
    assert f"**why:** {shown}\n" in card


def test_code_is_safe_in_markdown():
    """Backticks in names and source lines cannot close their block."""
    odd = dataclasses.replace(
        CUT, snippet=("'''", "```", "````"), variables=("a`b|<c>/kernel",)
    )
    card = render_markdown(odd)
    assert "\n- `` a`b|<c>/kernel ``\n" in card
    assert card.count("\n`````\n") == 2


def test_markdown_blocks_stand_apart():
    """Markdown needs an empty line before a list or a block."""
    plain = dataclasses.replace(CUT, snippet=("x",), help=CUT.help[:1])
    blocks = render_markdown(plain).split("\n\n")
    assert sum(block.startswith("- `") for block in blocks) == 1
    assert sum(block.startswith("```\n") for block in blocks) == 2
    assert all(block.startswith(("#", "`", "- `", "**")) for block in blocks)


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
    assert text.startswith(f"{CUT_TEXT}\n\n{render(BARE)}\n\nreport: ")
    assert rows(report) == [
        "report: 1 error, 1 warning; 5 trainable variables: 1 ok, 1 missing, "
        "1 zero, 1",
        "        nonfinite, 1 unknown; step 7; global norm 1.235",
        "variable       shape   dtype    status     norm  step",
        "head/kernel    (8, 3)  float16  missing    -     -",
        "hidden/bias    (8,)    float32  zero       0     7",
        "scale          ()      float32  nonfinite  nan   7",
        "late           (2,)    float32  unknown    -     -",
        "hidden/kernel  (4, 8)  float32  ok         0.25  7",
    ]


def test_render_report_with_nothing_to_say():
    """An empty report is one line."""
    assert render_report(Report()) == (
        "report: nothing broken; 0 trainable variables"
    )


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
