"""Every remedy, applied to a program that its rule flags.

The rule must choose the remedy for the program, and the program must train
once the printed change is made to it.
"""

import re
import textwrap

import pytest

from keras_gradguard.advice import patches
from keras_gradguard.rules import RULES
from keras_gradguard.source.dialect import TENSORFLOW
from tests.fitting import skip_on_keras_3_5
from tests.rules.remedy_pages import PAGES
from tests.rules.test_bad_and_good import load, run

# Advice that no change of a few lines can show.
MOST_WORDS_ONLY = 20


@pytest.fixture(autouse=True)
def _without_patches(monkeypatch):
    """A checked patch of the line would stand in place of the remedies."""
    monkeypatch.setattr(patches, "MOST_TRIALS", 0)


def cases():
    """Yields `(rule, numbers, page)`: the remedies that a page is for.

    The programs beside those of the rules themselves take four minutes.
    """
    for rule in RULES:
        numbers = [n for n, r in enumerate(rule.help) if r.before is not None]
        pages = [key for key in PAGES if key[0] == rule.code]
        for code, *own in pages:
            yield rule, own, PAGES[code, *own]
            numbers = [n for n in numbers if n not in own]
        if numbers:
            yield rule, numbers, rule.bad


def patched(source, before, after):
    """Returns a program in which some lines are replaced, each time.

    Args:
        source: The program.
        before: The lines as printed in a message, or a part of one.
        after: What replaces them, or `None`.
    """
    old = before.splitlines()
    new = (after or "").splitlines()
    lines = [re.sub(r"  # \[.*\]$", "", line) for line in source.splitlines()]
    for start in range(len(lines) - len(old) + 1):
        found = lines[start : start + len(old)]
        indent = found[0][: len(found[0]) - len(found[0].lstrip())]
        wanted = [textwrap.indent(line, indent) for line in old]
        if found == wanted:
            put = [textwrap.indent(line, indent) for line in new]
            lines[start : start + len(old)] = put
            return "\n".join(lines) + "\n"
    whole = "\n".join(lines) + "\n"
    assert before in whole, f"{before!r} is not in the program"
    first = next(line for line in lines if old[0] in line)
    indent = first[: len(first) - len(first.lstrip())]
    return whole.replace(before, ("\n" + indent).join(new))


def flagged(source, folder, name):
    """Runs a program; returns its report, and the error that ended it."""
    module = load(source, folder, name)
    callback, error = run(module, getattr(module, "EAGER", False))
    return callback.report, error


def shown(diagnosis, remedy):
    """Returns the remedy as a diagnosis prints it, `None` if it does not."""
    wanted = (_canonical(remedy.text), _canonical(remedy.after))
    for item in diagnosis.help:
        if wanted == (_canonical(item.text), _canonical(item.after)):
            return item
    return None


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("rule", "numbers", "page"),
    [
        pytest.param(
            *case,
            id=f"{case[0].code}-{'-'.join(map(str, case[1]))}",
            marks=[pytest.mark.slow] if case[2] != case[0].bad else [],
        )
        for case in cases()
    ],
)
def test_remedies_make_the_program_train(rule, numbers, page, tmp_path):
    """The rule chooses each remedy, whose change leaves nothing to flag."""
    if rule.code == "GG302":
        skip_on_keras_3_5("does not train a dict with an output left out")
    report, _ = flagged(page, tmp_path, "flagged_page")
    (found,) = [d for d in report.diagnoses if d.code == rule.code]
    for number in numbers:
        item = shown(found, rule.help[number])
        assert item is not None, (number, [item.text for item in found.help])
        source = patched(page, item.before, item.after)
        report, error = flagged(source, tmp_path, "patched_page")
        assert error is None, (source, error)
        left = [d for d in report.diagnoses if d.severity != "note"]
        assert left == [], (source, left)
        assert rule.code not in {d.code for d in report.diagnoses}, source
        assert {"ok"} >= {row.status for row in report.variables}, source


def test_few_remedies_are_words_only():
    """Most advice can be shown as a change of the code."""
    words = [
        (rule.code, item.text)
        for rule in RULES
        for item in rule.help
        if item.before is None
    ]
    assert len(words) <= MOST_WORDS_ONLY, words


def _canonical(text):
    """Text with its operations named as TensorFlow names them."""
    if text is None:
        return None

    def name(match):
        known = TENSORFLOW.get(match.group(1), match.group(1))
        return f"tf.{known}"

    return re.sub(r"(?<![\w.])(?:keras\.)?ops\.(\w+)", name, text)
