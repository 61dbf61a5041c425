"""Fresh processes, for what can be measured but once in each."""

import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[2]


class ProcessFailed(Exception):
    """A process ended without an answer."""


def answer_of(module, *arguments):
    """Runs a module in a fresh process; returns what it prints last.

    Args:
        module: Name of the module.
        *arguments: Its command line.

    Raises:
        ProcessFailed: If it fails.
    """
    with tempfile.TemporaryFile() as errors:
        done = subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=ROOT,
            text=True,
        )
        if done.returncode or not done.stdout.strip():
            raise ProcessFailed(last_words(errors))
    return json.loads(done.stdout.splitlines()[-1])


def last_words(errors):
    """Returns the last line that a process has written about its errors.

    Args:
        errors: The file that it wrote to.
    """
    errors.seek(0)
    text = errors.read().decode(errors="replace").strip()
    return text.splitlines()[-1][:200] if text else "without a word"
