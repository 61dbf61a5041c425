"""The public names, what importing costs, and who imports whom."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

import keras_gradguard

PACKAGE = pathlib.Path(keras_gradguard.__file__).parent
NAMES = [
    "Diagnosis",
    "GradGuardLoss",
    "GradHealthCallback",
    "GradientBreakError",
    "GradientBreakWarning",
    "Report",
    "check_loss",
    "diagnose",
    "watch",
]


def run(code):
    """Runs code in a fresh Python; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout.strip()


def test_public_names():
    """`__all__` is what the README promises, and all of it is there."""
    assert NAMES == keras_gradguard.__all__
    for name in NAMES:
        assert name == getattr(keras_gradguard, name).__name__
        assert getattr(keras_gradguard, name).__doc__
        assert name in dir(keras_gradguard)
    with pytest.raises(AttributeError, match="no_such_name"):
        keras_gradguard.no_such_name  # noqa: B018


LIGHT = "keras_gradguard, keras_gradguard.records.report, keras_gradguard.rules"
LIGHT += ", keras_gradguard.records.text, keras_gradguard.__main__"
LIGHT += ", keras_gradguard.expected, keras_gradguard.schedule"
LIGHT += ", keras_gradguard.view.loader"


def test_import_is_light():
    """No TensorFlow, Keras or NumPy; and this test can fail."""
    heavy = "{{'tensorflow', 'keras', 'numpy'}}"
    code = f"import sys, {{}}; print(*{heavy} & {{{{*sys.modules}}}})"
    assert "" == run(code.format(LIGHT))
    assert "numpy" in run(code.format(LIGHT + ", numpy"))


def test_without_tensorflow():
    """The error names the command that installs it."""
    code = """
import sys
sys.modules["tensorflow"] = None
import keras_gradguard
try:
    keras_gradguard.GradHealthCallback
except ModuleNotFoundError as error:
    print(error)
"""
    said = run(code)
    assert "Keras on TensorFlow" in said
    assert "pip install" in said


def imported(path):
    """The modules of this package that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


FILES = sorted(PACKAGE.rglob("*.py"))
FREE = {"records.py", "rows.py", "finding.py", "errors.py"}
FREE |= {"optimizer_health.py"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.name))
def test_import_direction(path):
    """Records import nothing heavy, rules only records, nobody the doors."""
    names = imported(path)
    own = {name for name in names if name.startswith("keras_gradguard.")}
    heavy = {n for n in names if n.split(".")[0] in ("tensorflow", "keras")}
    if path.name in FREE or path.parent.name == "rules":
        assert not heavy
    if path.parent.name == "rules":
        allowed = ("records", "finding", "rules")
        assert all(name.split(".")[1] in allowed for name in own)
    if path.parent.name == "view":
        # TensorBoard may run where neither is installed.
        assert not heavy
        allowed = ("view", "report", "records", "cells", "stored")
        assert all(name.split(".")[1] in allowed for name in own)
    doors = {
        "keras_gradguard.loss",
        "keras_gradguard.callback",
        "keras_gradguard.loop",
    }
    assert not doors & own
    if not path.name.endswith("internals.py"):
        private = {n for n in heavy if ".python." in n or ".src" in n}
        assert not private, "TensorFlow and Keras internals: internals.py only"


def test_one_place_asks_for_the_backend():
    """All else asks `keras_gradguard.backend`."""
    asking = [
        str(path.relative_to(PACKAGE))
        for path in FILES
        if re.search(r"(backend|config)\.backend\(", path.read_text())
    ]
    assert ["backend/__init__.py"] == asking


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.name))
def test_small_files(path):
    """No file is longer than 450 lines."""
    assert len(path.read_text().splitlines()) <= 450
