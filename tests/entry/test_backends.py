"""Another backend of Keras gets a clear word, and nothing else changes."""

import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.smoke

ROOT = pathlib.Path(__file__).parents[2]


def test_where_keras_runs_on_another_backend():
    """The program says what it checks; it fails with a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.entry.other_backend"],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
    )
    assert 0 == done.returncode, done.stderr
    assert "as it should be on jax\n" == done.stdout
