"""The README keeps step with the rules, the extras and `.ci/run`.

`python -m tests.project.test_readme` writes the table of codes anew.
"""

import configparser
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
README = ROOT / "README.md"
BEGIN, END = "<!-- rules:begin -->\n", "<!-- rules:end -->"


def split_at_markers(text):
    before, rest = text.split(BEGIN)
    table, after = rest.split(END)
    return before + BEGIN, table.strip("\n"), END + after


def table_of_rules():
    from keras_gradguard.report.catalogue import markdown_table

    return markdown_table().strip("\n")


def commands():
    lines = README.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("pip install")]


def test_table_of_codes_is_the_rules():
    _, table, _ = split_at_markers(README.read_text(encoding="utf-8"))
    assert table_of_rules() == table, (
        "the rules changed: run `python -m tests.project.test_readme`"
    )


def test_first_lines_name_the_backend():
    text = README.read_text(encoding="utf-8")
    assert "TensorFlow backend" in " ".join(text.split("\n\n")[1].split())


def test_a_part_of_the_tests_is_one_that_is_marked():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    markers = re.findall(r"^(\w+):", setup["tool:pytest"]["markers"], re.M)
    text = README.read_text(encoding="utf-8")
    (part,) = re.findall(r"`python -m pytest -m (\w+)`", text)
    assert part in markers


def test_one_command_for_the_main_job_and_one_for_the_tests():
    job, test = commands()
    assert job.endswith(" && python examples/01_find_the_cut.py")
    assert test.endswith(" && python -m pytest")
    assert (ROOT / job.split()[-1]).is_file()


@pytest.mark.parametrize("command", commands())
def test_commands_ask_for_extras_that_exist(command):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = re.search(r'"\.\[(.+)\]"', command).group(1).split(",")
    assert set(extras) <= set(setup["options.extras_require"])


def test_ci_runs_the_test_command_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    lookup = re.search(r"^command=\$\((.+)\)$", script, re.MULTILINE).group(1)
    found = subprocess.run(
        ["bash", "-c", lookup], cwd=ROOT, capture_output=True, text=True
    )
    assert commands()[1:] == found.stdout.splitlines()
    assert '\nbash -c "$command"' in script


def write_table():
    before, _, after = split_at_markers(README.read_text(encoding="utf-8"))
    text = before + table_of_rules() + "\n" + after
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    write_table()
