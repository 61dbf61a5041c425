"""What a diagnosis says in a terminal, letter for letter."""

import dataclasses
import pathlib

import pytest

from keras_gradguard.records.report import Help, Report
from keras_gradguard.records.text import render, render_report
from keras_gradguard.report.cards import render_markdown
from tests.report.sample import BARE, CUT

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
   = note: `Cast` on the same line would cut the gradient as well
   = data: kind=disconnected, certainty=proved, op=Greater, loss=mse, step=0,
           epoch=0, norms=[0, 1.235e-09]
help: keep the score soft
   - hard = tf.cast(y_pred > 0.5, tf.float32)
   + soft = tf.sigmoid(10.0 * (y_pred - 0.5))
help: or compare in a metric
   + def metric(y_true, y_pred):
more: python -m keras_gradguard explain GG102"""


def line_with(text, diagnosis):
    """Returns the rendered line that holds some text."""
    (line,) = [n for n in render(diagnosis).splitlines() if text in n]
    return line


def test_render():
    """The whole message, as in the style sheet's template."""
    assert render(CUT) == CUT_TEXT


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


def test_snippet_begins_with_an_empty_line():
    """The margin is that of a line with nothing behind its number."""
    source = ("", *CUT.snippet[1:])
    lines = render(dataclasses.replace(CUT, snippet=source)).splitlines()
    known = render(CUT).splitlines()
    assert [*known[:3], lines[3], *known[4:]] == lines
    assert known[3].startswith(lines[3])


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


def test_function_without_a_file_is_kept():
    """Where there is no arrow the function's name stands in the data."""
    diagnosis = dataclasses.replace(CUT, file=None, line=None)
    assert "function=my_loss" in render(diagnosis)
    assert "-->" not in render(diagnosis)
