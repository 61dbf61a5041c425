"""The command that prints checked patches as a diff, and applies them."""

import dataclasses
import json
import linecache
import subprocess

import pytest

from keras_gradguard.__main__ import main
from keras_gradguard.advice.fix import fixed
from keras_gradguard.advice.patches import changes_between
from keras_gradguard.records.reading import read_report
from keras_gradguard.records.report import (
    Diagnosis,
    Help,
    Patch,
    Report,
    digest_of,
)

OLD = "import numpy as np\n\n\ndef loss(y, p):\n    return np.abs(y - p)\n"
NEW = OLD.replace("np.abs", "ops.abs")


def stored(folder, path, old=OLD, new=NEW, **changes):
    """Writes a report with one patch; returns its path."""
    universal = [text.replace("\r\n", "\n") for text in (old, new)]
    patch = Patch(
        str(path), digest_of(universal[0]), changes_between(*universal)
    )
    item = Help("use ops", "a", "b", checked="it helps", patch=patch)
    told = Diagnosis(
        code="GG101",
        name="numpy-call",
        kind="untraceable",
        severity="error",
        message="a message",
        why="A fact.",
        help=(dataclasses.replace(item, **changes),),
        file=str(path),
        line=5,
    )
    file = folder / "report.json"
    file.write_text(Report(diagnoses=(told, told)).to_json())
    return str(file)


@pytest.fixture(name="source")
def _source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "losses.py"
    path.write_text(OLD)
    return path


def test_report_keeps_the_patch(tmp_path, source):
    """What was written is read, field by field."""
    path = stored(tmp_path, source)
    report = read_report(path)
    assert json.loads(report.to_json()) == json.loads(open(path).read())
    (item,) = report.diagnoses[0].help
    assert item.patch.changes == (
        (5, ("    return np.abs(y - p)",), ("    return ops.abs(y - p)",)),
    )


def test_diff_is_printed_and_nothing_written(tmp_path, source, capsys):
    """One that `patch` understands, each change once."""
    assert main(["fix", stored(tmp_path, source)]) == 0
    printed = capsys.readouterr().out
    assert source.read_text() == OLD
    assert printed.splitlines()[:2] == ["--- losses.py", "+++ losses.py"]
    assert printed.count("\n+    return ops.abs(y - p)") == 1
    (tmp_path / "it.diff").write_text(printed)
    subprocess.run(["git", "apply", "-p0", "it.diff"], cwd=tmp_path, check=True)
    assert source.read_text() == NEW


def test_write_applies_it(tmp_path, source, capsys):
    """Other lines, ends of lines and rights of the file stay."""
    source.write_bytes(OLD.replace("\n", "\r\n").encode())
    source.chmod(0o640)
    assert main(["fix", "--write", stored(tmp_path, source)]) == 0
    assert source.read_bytes() == NEW.replace("\n", "\r\n").encode()
    assert source.stat().st_mode & 0o777 == 0o640
    assert "+    return ops.abs(y - p)" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "losses.py",
        "report.json",
    ]


@pytest.mark.parametrize("arguments", [["fix"], ["fix", "--write"]])
def test_changed_file_is_left_alone(arguments, tmp_path, source, capsys):
    """The lines may be others by now."""
    path = stored(tmp_path, source)
    source.write_text("# a line\n" + OLD)
    assert main([*arguments, path]) == 2
    captured = capsys.readouterr()
    assert "has changed since its patches were checked" in captured.err
    assert captured.out.strip() == ""
    assert source.read_text() == "# a line\n" + OLD


def test_only_python_files(tmp_path, source, capsys):
    """A report of a stranger's may name any file."""
    other = tmp_path / "settings.txt"
    other.write_text(OLD)
    assert main(["fix", "--write", stored(tmp_path, other)]) == 2
    assert "not a Python file" in capsys.readouterr().err
    assert other.read_text() == OLD
    assert main(["fix", stored(tmp_path, tmp_path / "gone.py")]) == 2
    assert "cannot read" in capsys.readouterr().err
    del source


def test_report_without_patches(tmp_path, source, capsys):
    """Advice that was not checked is no patch."""
    path = stored(tmp_path, source, checked=None)
    assert main(["fix", path]) == 0
    assert capsys.readouterr().out == "no checked patch in this report\n"


@pytest.mark.parametrize(
    "changes",
    ["all", [["x", [], []]], [[1, "text", []]], [[1, [2], []]], None],
)
def test_forged_patch(changes, tmp_path, source, capsys):
    """It is one sentence and the exit code 2."""
    path = stored(tmp_path, source)
    values = json.loads(open(path).read())
    for told in values["diagnoses"]:
        told["help"][0]["patch"]["changes"] = changes
    open(path, "w").write(json.dumps(values))
    assert main(["fix", "--write", path]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert source.read_text() == OLD


def test_file_without_an_end_of_line(tmp_path, source):
    """Python ends the last line by itself, a form feed begins none."""
    source.write_text(OLD.replace("\n\n\n", "\n\x0c\n\n").rstrip("\n"))
    text = "".join(linecache.getlines(str(source)))
    path = stored(tmp_path, source, text, text.replace("np.abs", "ops.abs"))
    assert main(["fix", "--write", path]) == 0
    assert "\x0c" in source.read_text()
    assert source.read_text().rstrip().endswith("ops.abs(y - p)")


def test_of_two_patches_of_a_line_one_is_applied_whole(tmp_path, source):
    """Half of a patch was never checked."""
    digest = digest_of(OLD)
    import_line = (1, ("import numpy as np",), ("from keras import ops",))
    value = (5, ("    return np.abs(y - p)",), ("    return ops.abs(y - p)",))
    other = (5, ("    return np.abs(y - p)",), ("    return y - p",))
    both = Patch(str(source), digest, (import_line, value))
    first = Patch(str(source), digest, (other,))
    _, new = fixed(str(source), [first, both])
    assert new == OLD.replace("np.abs(y - p)", "y - p")
    del tmp_path
