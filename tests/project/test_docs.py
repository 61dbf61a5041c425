"""The README and the pages of `docs/` keep step with the code.

`python -m tests.project.test_docs` writes what they quote anew: the tables of
rules, and what the README's example prints.
"""

import ast
import configparser
import contextlib
import importlib
import inspect
import linecache
import os
import pathlib
import re
import runpy
import shlex
import subprocess
import sys
import tempfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]
README = ROOT / "README.md"
RULES = ROOT / "docs" / "rules.md"
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
every_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: page.name.removesuffix(".md")
)


def read(page):
    return page.read_text(encoding="utf-8")


def prose(page):
    """The text of a page without its blocks of code."""
    return FENCE.sub("", read(page))


def blocks(page, language):
    return [
        code for kind, code in FENCE.findall(read(page)) if kind == language
    ]


def marked(text, name):
    """Splits a text into what is before, between and after two marks."""
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    before, rest = text.split(begin)
    between, after = rest.split(end)
    return before + begin, between, end + after


def commands():
    lines = read(README).splitlines()
    return [line for line in lines if line.startswith("pip install")]


def extras():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return set(setup["options.extras_require"])


# The quotes.


def tables():
    """By its mark, each table of `docs/rules.md` as the rules have it."""
    from keras_gradguard.report.catalogue import markdown_table
    from keras_gradguard.rules import RULES

    hundreds = sorted({rule.code[:3] for rule in RULES})
    return {f"rules:{name}": markdown_table(name) for name in hundreds}


def output_of_example():
    """What the README's example prints, as a block of Markdown."""
    from keras_gradguard import GradientBreakError

    _, block, _ = marked(read(README), "example")
    ((_, code),) = FENCE.findall(block)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        pathlib.Path("train.py").write_text(code, encoding="utf-8")
        with pytest.raises(GradientBreakError) as caught:
            runpy.run_path("train.py")
    # A text that is in no file any more is taken for a cell of a notebook.
    linecache.clearcache()
    said, _ = str(caught.value).split("\n\nKeras says: ")
    return f"```\n{said.strip()}\n```\n"


def write_quotes():
    for page, quotes in (
        (RULES, tables()),
        (README, {"output": output_of_example()}),
    ):
        text = read(page)
        for name, quote in quotes.items():
            before, _, after = marked(text, name)
            text = before + quote + after
        page.write_text(text, encoding="utf-8")


ANEW = "run `python -m tests.project.test_docs`"


def test_tables_of_codes_are_the_rules():
    text = read(RULES)
    for name, table in tables().items():
        assert table == marked(text, name)[1], ANEW
    assert len(tables()) == text.count(":begin -->")


def test_kinds_are_explained():
    from keras_gradguard.records.kinds import KINDS

    explained, _ = read(RULES).split("## GG1xx")
    assert set(KINDS) == set(re.findall(r"`(\w+)`", explained)) & set(KINDS)


def test_the_example_prints_what_the_readme_shows():
    output = marked(read(README), "output")[1]
    assert "train.py" in output
    assert output_of_example() == output, ANEW


# The README.


def test_readme_is_two_screens():
    assert len(read(README).splitlines()) <= 118
    assert len(read(README).split()) <= 720


def test_first_lines_name_the_backend():
    assert "TensorFlow backend" in " ".join(
        read(README).split("\n\n")[1].split()
    )


def test_readme_names_what_is_public():
    import keras_gradguard

    records = {"Diagnosis", "GradientBreakError", "GradientBreakWarning"}
    for name in {*keras_gradguard.__all__} - records - {"Report"}:
        assert f"| `{name}(" in read(README)


def test_defaults_of_the_readme_are_those_of_the_code():
    from keras_gradguard import GradGuardLoss, GradHealthCallback

    for kind in (GradGuardLoss, GradHealthCallback):
        default = inspect.signature(kind).parameters["on_break"].default
        (row,) = re.findall(rf"^\| `{kind.__name__}\(.*$", read(README), re.M)
        assert f'on_break="{default}"' in row


def test_a_part_of_the_tests_is_one_that_is_marked():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    markers = re.findall(r"^(\w+):", setup["tool:pytest"]["markers"], re.M)
    (part,) = re.findall(r"`python -m pytest -m (\w+)`", read(README))
    assert part in markers


def test_one_command_for_the_main_job_and_one_for_the_tests():
    job, test = commands()
    assert job.endswith(" && python examples/01_find_the_cut.py")
    assert test.endswith(" && python -m pytest")
    assert (ROOT / job.split()[-1]).is_file()


def test_ci_runs_the_test_command_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    lookup = re.search(r"^command=\$\((.+)\)$", script, re.MULTILINE).group(1)
    found = subprocess.run(
        ["bash", "-c", lookup], cwd=ROOT, capture_output=True, text=True
    )
    assert commands()[1:] == found.stdout.splitlines()
    assert '\nbash -c "$command"' in script


# Every page.


def slug(heading):
    """The anchor that a code host gives a heading."""
    words = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return words.replace(" ", "-")


def anchors(page):
    text = prose(page)
    found = {slug(name) for name in re.findall(r"^#+ (.+)$", text, re.M)}
    return found | set(re.findall(r'<a id="([^"]+)">', text))


def links(page):
    text = prose(page)
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    found += re.findall(r'(?:src|srcset|href)="([^"]+)"', text)
    return [link for link in found if not link.startswith("http")]


@every_page
def test_links_lead_somewhere(page):
    """A relative link has its file, and its anchor a heading there."""
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), link
        assert target.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_and_picture_is_linked():
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in links(page)
    }
    files = {*(ROOT / "docs").glob("*.md"), *ROOT.glob("docs/images/*")}
    assert files and files <= linked


@every_page
def test_codes_are_rules(page):
    from keras_gradguard.rules import RULES

    known = {rule.code for rule in RULES}
    assert set(re.findall(r"\bGG\d{3}\b", prose(page))) - known <= {"GG126"}


@every_page
def test_python_of_a_page(page):
    """It compiles; what it imports and passes to us is there."""
    for code in blocks(page, "python"):
        tree = ast.parse(code)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, item.name) for item in node.names)
            elif isinstance(node, ast.Call):
                check_keywords(node)


def check_keywords(call):
    import keras_gradguard

    name = getattr(call.func, "id", None)
    if name in keras_gradguard.__all__:
        known = inspect.signature(getattr(keras_gradguard, name)).parameters
        assert {word.arg for word in call.keywords} <= set(known)


@every_page
def test_commands_of_a_page(page):
    """The command line takes them, and the extras exist."""
    from keras_gradguard.__main__ import _parser

    start = "python -m keras_gradguard "
    for line in "\n".join(blocks(page, "")).splitlines():
        if line.startswith(start):
            line, _, _ = line.partition(" > ")
            _parser().parse_args(shlex.split(line.removeprefix(start)))
    for names in re.findall(r'"\.\[(.+?)\]"', read(page)):
        assert set(names.split(",")) <= extras()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    write_quotes()
