"""Keras' own tests of training, with the guard in every `fit`."""

import functools
import os
import pathlib
import re
import subprocess
import sys

import keras.src
import pytest

SWITCH = "INJECT_GUARD"
# `keras/src` of a checkout of the installed version, where the installed
# build has no tests.
FOLDER = pathlib.Path(
    os.environ.get("KERAS_SOURCE") or pathlib.Path(keras.src.__file__).parent
)
FOLDERS = (
    "callbacks",
    "distillation",
    "layers",
    "metrics",
    "models",
    "optimizers",
    "trainers",
    "wrappers",
)
FITS = re.compile(r"\.fit\(|train_on_batch\(|run_training_check\(")
# What may differ with the guard, and why.
KNOWN = {
    "trainer_test.py::TestTrainer::test_retracing": (
        "its ReLU is dead for some seeds; the step is then traced once more"
    )
}


@functools.cache
def files():
    """The test files that train."""
    return [
        file
        for folder in FOLDERS
        for file in sorted((FOLDER / folder).rglob("*_test.py"))
        if FITS.search(file.read_text(encoding="utf-8"))
    ]


@functools.cache
def outcomes(guard):
    """Runs the files; returns the outcome of each test, and what was said."""
    root = pathlib.Path(__file__).parents[2]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [
            sys.executable,
            *("-m", "pytest", "-rA", "-q", "--no-header", "--tb=short"),
            "--continue-on-collection-errors",
            *("-p", "no:cacheprovider", "-p", "no:xdist", "-c", os.devnull),
            *(f"--rootdir={FOLDER}", "-p", "tests.ways.inject_guard"),
            *map(str, files()),
        ],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": path,
            "KERAS_GRADGUARD_STRICT": "1",
            SWITCH: guard,
        },
        check=False,
    )
    # The name of a case may have the address of a function in it.
    said = re.sub(r"0x[0-9a-f]+", "", done.stdout)
    found = re.findall(
        r"^(PASSED|FAILED|ERROR|SKIPPED) (\S+?_test\.py::\S+)",
        said,
        re.MULTILINE,
    )
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    names = {name.split("/")[-1]: outcome for outcome, name in found}
    return names, said


@pytest.mark.slow
@pytest.mark.parametrize("guard", ["callback", "loss", "both"])
def test_outcomes_are_the_same(guard):
    """What passes without the guard passes with it."""
    if not files():
        pytest.skip("no tests of Keras: set KERAS_SOURCE to its `keras/src`")
    bare, _ = outcomes("nothing")
    guarded, text = outcomes(guard)
    changed = {
        test: (outcome, guarded.get(test))
        for test, outcome in bare.items()
        if outcome != guarded.get(test) and test not in KNOWN
    }
    assert {} == changed, text[-5000:]
