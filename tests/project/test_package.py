"""The public names, and what importing costs."""

import subprocess
import sys

import pytest

import keras_gradguard

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
    """`__all__` is what the documentation promises, and all of it exists."""
    assert NAMES == keras_gradguard.__all__
    for name in NAMES:
        assert name == getattr(keras_gradguard, name).__name__
        assert getattr(keras_gradguard, name).__doc__
        assert name in dir(keras_gradguard)
    with pytest.raises(AttributeError, match="no_such_name"):
        keras_gradguard.no_such_name  # noqa: B018


LIGHT = "keras_gradguard, keras_gradguard.records, keras_gradguard.rules"
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
