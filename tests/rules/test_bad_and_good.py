"""Every rule's bad example fires that rule at its line; the good is silent.

`python -m tests.rules.test_bad_and_good GG104` writes the stored text of a
rule anew, without a code those of all.
"""

import dataclasses
import functools
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import types

import keras
import numpy as np
import pytest

from keras_gradguard import GradHealthCallback, check_loss
from keras_gradguard.errors import GradientBreakError
from keras_gradguard.records.text import render
from keras_gradguard.rules import RULES
from tests.fitting import skip_on_keras_3_5
from tests.plain import alone, model_for

GOLDEN = pathlib.Path(__file__).parent / "golden"
SHOWN = [rule for rule in RULES if rule.bad]
MODES = [False, True]


def load(source, folder, name):
    """Imports a rule's example from a file of its own."""
    path = pathlib.Path(folder) / f"{name}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def run(module, eager):
    """Fits an example, or looks at its loss alone where it asks for that.

    Returns:
        What has a `report`, and the error that ended it, or `None`.
    """
    if not getattr(module, "CHECK", False):
        return train(module, eager)
    generator = np.random.default_rng(0)
    y_pred = generator.normal(size=(16, 3)).astype("float32")
    y_true = np.eye(3, dtype="float32")[generator.integers(0, 3, 16)]
    report = check_loss(module.loss, y_true, y_pred)
    return types.SimpleNamespace(report=report), None


def fit(model, x, y):
    """What an example does with its model where it does not say."""
    model.fit(x, y)


def train(module, eager):
    """Fits an example, one batch an epoch; returns callback and error."""
    keras.utils.set_random_seed(1)
    keras.backend.clear_session()
    if hasattr(module, "model"):
        model = module.model()
    else:
        model = model_for(module.loss)
    model.run_eagerly = eager
    generator = np.random.default_rng(0)
    x = generator.normal(size=(16, 4)).astype("float32")
    y = np.eye(3, dtype="float32")[generator.integers(0, 3, 16)]
    x = getattr(module, "inputs", lambda x: x)(x)
    y = getattr(module, "targets", lambda y: y)(y)
    arguments = getattr(module, "ARGUMENTS", {})
    callback = GradHealthCallback(every=1, **arguments)
    model.fit = functools.partial(
        model.fit,
        epochs=getattr(module, "EPOCHS", 1),
        batch_size=16,
        verbose=0,
        callbacks=[callback],
    )
    error = None
    try:
        with alone(module):
            getattr(module, "run", fit)(model, x, y)
    except Exception as raised:
        error = raised
    finally:
        sys.modules.pop(module.__name__)
    return callback, error


def marked_line(rule):
    """The number of the line that carries the rule's mark, if any."""
    lines = rule.bad.splitlines()
    found = [n for n, t in enumerate(lines, 1) if t.endswith(f"[{rule.name}]")]
    assert len(found) <= 1, f"{rule.code} marks {len(found)} lines"
    return found[0] if found else None


def shown(diagnosis, folder):
    """The rendered text without what differs from run to run."""
    text = render(diagnosis).replace(str(folder) + os.sep, "")
    text = re.sub(r"--> \S*?(\w+\.py:)", r"--> \1", text)
    return re.sub(r"_\d+/", "/", text) + "\n"


def figures_of(text):
    """Takes the figures with a fraction out of the line of the data.

    What is left of a gradient that almost vanishes is a difference of large
    numbers: the kernels of two CPUs agree on a digit or two.

    Returns:
        The text with `#` in their places, and their values.
    """
    pattern = r"(?<==)\d+(?:\.\d+)?e-\d+"
    figures = [float(figure) for figure in re.findall(pattern, text)]
    return re.sub(pattern, "#", text), figures


def bad_run(rule, eager, folder):
    """Trains a rule's bad example."""
    if rule.code == "GG302":
        skip_on_keras_3_5("does not train a dict with an output left out")
    module = load(rule.bad, folder, f"{rule.name.replace('-', '_')}_example")
    return run(module, eager or getattr(module, "EAGER", False))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("eager", MODES, ids=["compiled", "eager"])
@pytest.mark.parametrize("rule", SHOWN, ids=lambda rule: rule.code)
def test_bad_fires_at_its_line(rule, eager, tmp_path):
    """The bad example gives exactly this code, at the marked line."""
    callback, error = bad_run(rule, eager, tmp_path)
    found = callback.report.diagnoses
    if eager and not found and rule.kind == "untraceable":
        pytest.skip("eager mode differentiates this one")
    if eager and rule.code == "GG109":
        # There the `if` runs, and how far the loss jumps can be measured.
        rule = dataclasses.replace(rule, code="GG241", kind="discontinuous")
    assert [(rule.code, marked_line(rule))] == [(d.code, d.line) for d in found]
    assert found[0].kind == rule.kind
    is_of_loss = "CHECK" in rule.bad or rule.kind == "discontinuous"
    if found[0].severity != "note" and not is_of_loss:
        assert found[0].variables
    if isinstance(error, GradientBreakError):
        assert "No gradients provided for any variable." in str(error)
    elif error is not None:
        assert any(rule.code in note for note in error.__notes__)


@pytest.mark.parametrize("eager", MODES, ids=["compiled", "eager"])
@pytest.mark.parametrize("rule", SHOWN, ids=lambda rule: rule.code)
def test_good_is_silent(rule, eager, tmp_path):
    """The good example trains every variable and draws no diagnosis."""
    name = f"{rule.name.replace('-', '_')}_mended"
    callback, error = run(load(rule.good, tmp_path, name), eager)
    assert error is None
    assert () == callback.report.diagnoses
    assert {"ok"} >= {row.status for row in callback.report.variables}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("rule", SHOWN, ids=lambda rule: rule.code)
def test_text_is_the_stored_one(rule, tmp_path):
    """The rendered diagnosis is, letter by letter, the stored file.

    Its figures are those of another CPU, see `figures_of`.
    """
    callback, _ = bad_run(rule, False, tmp_path)
    text = shown(callback.report.diagnoses[0], tmp_path)
    stored, figures = figures_of((GOLDEN / f"{rule.code}.txt").read_text())
    text, measured = figures_of(text)
    assert stored == text
    assert measured == pytest.approx(figures, rel=0.1)


def write_text(rule):
    """Stores the text of a rule's bad example."""
    with tempfile.TemporaryDirectory() as folder:
        report = bad_run(rule, False, folder)[0].report
        stored = GOLDEN / f"{rule.code}.txt"
        stored.write_text(shown(report.diagnoses[0], folder))


if __name__ == "__main__":
    wanted = [each for each in SHOWN if each.code in sys.argv[1:]]
    if len(wanted) == 1:
        write_text(*wanted)
        sys.exit()
    # Another example in the same process would hide the line of a layer.
    program = [sys.executable, "-m", "tests.rules.test_bad_and_good"]
    for each in wanted or SHOWN:
        subprocess.run([*program, each.code], check=True)
