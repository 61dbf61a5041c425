"""The examples run as their reader runs them, and say what they promise."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def run(example, *arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, EXAMPLES / example, *arguments],
        capture_output=True,
        cwd=cwd,
        env=environment,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def place(example, source):
    """Returns `file:line` of the only line that holds `source`."""
    lines = (EXAMPLES / example).read_text(encoding="utf-8").splitlines()
    (number,) = [n for n, line in enumerate(lines, start=1) if source in line]
    return f"{example}:{number}"


def test_find_the_cut(tmp_path):
    """Names the hidden threshold, then trains and leaves event files."""
    example = "01_find_the_cut.py"
    output = run(example, "my logs", cwd=tmp_path)
    first, second = output.split("Second try")
    assert "GG102" in first
    assert place(example, "tf.cast(scores > 0.5") in first
    assert "GG1" not in second
    accuracy = second.split("validation accuracy: ")[1].split()[0]
    assert float(accuracy) >= 0.90
    assert "tensorboard --logdir" in output.splitlines()[-1]
    runs = tmp_path / "my logs"
    assert list(runs.glob("broken/gradients/events.out.tfevents.*"))
    assert list(runs.glob("corrected/gradients/events.out.tfevents.*"))
    assert [runs] == list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def pitfalls(tmp_path_factory):
    """What the second example prints, by heading."""
    cwd = tmp_path_factory.mktemp("pitfalls")
    sections = {}
    for line in run("02_three_pitfalls.py", cwd=cwd).splitlines():
        if line.startswith("==="):
            section = sections.setdefault(line.strip("= "), [])
        elif line.strip():
            section.append(line.strip())
    assert [] == list(cwd.iterdir())
    return {key: "\n".join(lines) for key, lines in sections.items()}


PITFALLS = [
    ("numpy_mean, compiled", "NotImplementedError", "np.mean("),
    ("numpy_mean, run_eagerly=True", "No gradients provided", "np.mean("),
    (
        "python_if, compiled",
        "OperatorNotAllowedInGraphError",
        "if error > 1.0:",
    ),
    ("hidden_threshold, compiled", "No gradients provided", "tf.cast(scores"),
    (
        "hidden_threshold, run_eagerly=True",
        "No gradients provided",
        "tf.cast(scores",
    ),
]


@pytest.mark.parametrize(("case", "plain", "source"), PITFALLS)
def test_pitfall_is_named_beside_the_message_of_keras(
    pitfalls, case, plain, source
):
    theirs, ours = pitfalls[case].split("keras_gradguard says:")
    assert plain in theirs
    assert "error[GG" in ours
    assert place("02_three_pitfalls.py", source) in ours


def test_python_if_trains_eagerly(pitfalls):
    theirs, _ = pitfalls["python_if, run_eagerly=True"].split(
        "keras_gradguard says:"
    )
    assert "(nothing: it trains)" in theirs


def test_pitfalls_are_the_three_in_both_modes(pitfalls):
    assert 6 == len(pitfalls)
