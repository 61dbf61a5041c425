"""Every remedy, applied to a program that its rule flags.

The rule must choose the remedy for the program, and the program must train
once the printed change is made to it.
"""

import re
import textwrap

import pytest

from keras_gradguard.rules import RULES
from keras_gradguard.source.dialect import TENSORFLOW
from tests.fitting import skip_on_keras_3_5
from tests.rules.remedy_pages import PAGES
from tests.rules.test_bad_and_good import load, run

# Advice that no change of a few lines can show.
MOST_WORDS_ONLY = 20
REMEDIES = [
    (rule, number)
    for rule in RULES
    for number, remedy in enumerate(rule.help)
    if remedy.before is not None
]
SHOWN_AT = {
    (code, number): key
    for key in PAGES
    for code, *numbers in [key]
    for number in numbers
}
_name = "{0[0].code}-{0[1]}".format


def cases():
    """Yields `(rule, number, page)` of each remedy with a snippet."""
    for rule, number in REMEDIES:
        pages = [
            page
            for (code, *numbers), page in PAGES.items()
            if code == rule.code and number in numbers
        ]
        for page in pages or [rule.bad]:
            yield rule, number, page


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


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("rule", "number", "page"),
    [pytest.param(*case, id=_name(case)) for case in cases()],
)
def test_remedy_makes_the_program_train(rule, number, page, tmp_path):
    """The rule chooses the remedy, and its change leaves nothing to flag."""
    if rule.code == "GG302":
        skip_on_keras_3_5("does not train a dict with an output left out")
    remedy = rule.help[number]
    report, _ = flagged(page, tmp_path, "flagged_page")
    (found,) = [d for d in report.diagnoses if d.code == rule.code]
    spelled = [
        item
        for item in found.help
        if _canonical(item.text) == _canonical(remedy.text)
        and _canonical(item.after) == _canonical(remedy.after)
    ]
    assert spelled, [item.text for item in found.help]
    source = patched(page, spelled[0].before, spelled[0].after)
    report, error = flagged(source, tmp_path, "patched_page")
    assert error is None, error
    left = [d for d in report.diagnoses if d.severity != "note"]
    assert left == [], left
    assert rule.code not in {d.code for d in report.diagnoses}
    assert {"ok"} >= {row.status for row in report.variables}, source


def _canonical(text):
    """Text with its operations named as TensorFlow names them."""
    if text is None:
        return None

    def name(match):
        known = TENSORFLOW.get(match.group(1), match.group(1))
        return f"tf.{known}"

    return re.sub(r"(?<![\w.])(?:keras\.)?ops\.(\w+)", name, text)
