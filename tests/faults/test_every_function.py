"""Each function of the package fails in a training, which goes on as it was.

Nothing is listed here but what a fault may reach, see `passes.ENTRIES`: a
function that is written tomorrow is in the next pass. A pass over all of them
takes an hour and more, so this one takes a sample, the same each time.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests.faults.injection import functions
from tests.faults.passes import ENTRIES

QUICK = "fit eager,cut eager,own step eager,watch,check_loss cut,report,tab"


def passed(*arguments):
    """Makes a pass in a process of its own; returns its objects."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.passes", *arguments],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_GRADGUARD_STRICT": "0"},
        check=False,
    )
    assert 0 == done.returncode, done.stderr[-3000:]
    lines = [t for t in done.stdout.splitlines() if t.startswith("{")]
    first, *harms, last = map(json.loads, lines)
    # Without a fault all of them train like a bare run.
    assert {} == first["wrong"]
    assert [] == harms
    return first["called"], last["cases"]


def test_a_sample():
    """Some functions in some trainings."""
    called, cases = passed("--trainings", QUICK, "--sample", "60")
    assert cases > 20
    assert len(called) > 1000
    assert set(called) <= set(functions())


def test_ctrl_c_in_a_sample():
    """Hooks are gone, records on disk, and the model can train again."""
    trainings = "fit eager,cut eager,watch"
    _, cases = passed("--interrupt", "--trainings", trainings, "--sample", "60")
    assert cases > 5


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_every_function(part):
    """All of them, and the examples of all rules."""
    number = ("--sample", "20", "--part", str(part))
    called, cases = passed("--examples", *number)
    assert cases > 100
    assert len(called) > 0.8 * len(functions())


@pytest.mark.slow
@pytest.mark.parametrize("part", range(5))
def test_ctrl_c_in_every_function(part):
    """The same for Ctrl-C."""
    passed("--interrupt", "--sample", "5", "--part", str(part))


def test_what_a_fault_may_reach_exists():
    """Each pattern of the list is that of a function."""
    names = functions()
    for pattern in (p for patterns in ENTRIES.values() for p in patterns):
        assert any(re.fullmatch(pattern, name) for name in names), pattern


def test_a_function_is_found_wherever_it_stands():
    """Methods, properties, closures, lambdas; each has a name of its own."""
    names = functions()
    assert len(names) == len(set(names))
    for name in (
        "callback.GradHealthCallback.report",
        "monitor.monitor.Monitor._check",
        "backend.tensorflow.hook.fit.FitHook.__init__.<lambda>",
        "backend.tensorflow.hook.optimizer.OptimizerHook._hooked_apply.apply",
    ):
        assert name in names
