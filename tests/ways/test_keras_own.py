"""Keras' own tests of training, with the guard in every `fit`."""

import os
import pathlib
import re
import subprocess
import sys

import keras.src
import pytest

SWITCH = "INJECT_GUARD"
FOLDER = pathlib.Path(keras.src.__file__).parent
FILES = ("trainers/trainer_test.py", "callbacks/early_stopping_test.py")

# Its ReLU is dead for some seeds; the guard then looks at the step once more.
KNOWN = {"TestTrainer::test_retracing"}


def outcomes(file, is_guarded):
    """Runs a test file of Keras; returns the outcome of each test."""
    root = pathlib.Path(__file__).parents[2]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [
            sys.executable,
            *("-m", "pytest", "-rA", "-q", "--no-header", "--tb=short"),
            *("-p", "no:cacheprovider", "-c", os.devnull),
            *(f"--rootdir={file.parent}", "-p", "tests.ways.inject_guard"),
            str(file),
        ],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": path,
            "KERAS_GRADGUARD_STRICT": "1",
            SWITCH: str(int(is_guarded)),
        },
        check=False,
    )
    found = re.findall(
        r"^(PASSED|FAILED|ERROR) \S*?::(\S+)", done.stdout, re.MULTILINE
    )
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    return {name: outcome for outcome, name in found}, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_outcomes_are_the_same(name):
    """What passes without the guard passes with it."""
    file = FOLDER / name
    if not file.exists():
        pytest.skip("this build of Keras comes without its tests")
    bare, _ = outcomes(file, False)
    guarded, text = outcomes(file, True)
    changed = {
        test: (outcome, guarded.get(test))
        for test, outcome in bare.items()
        if outcome != guarded.get(test) and test not in KNOWN
    }
    assert {} == changed, text[-5000:]
