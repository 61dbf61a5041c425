"""Lines that are looked for in the source: the right one, or none."""

import importlib.util
import itertools
import linecache
import os
import sys
import tempfile
import textwrap
import types

import numpy as np
import pytest

from keras_gradguard import GradHealthCallback
from tests.plain import alone

X = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
Y = np.ones((16, 1), "float32")
HEAD = """
import keras
from keras import layers, ops
from keras.ops import stop_gradient as sg

def unused(pred):
    return ops.mean(ops.greater(ops.stop_gradient(pred), 0.5))

def demo(h):
    return layers.Discretization([0.0, 1.0], name="bins")(h)

def given():
    i = keras.Input((6,))
    return i, layers.Dense(4)(i)

def closed(i, g):
    g = g if g.dtype == "float32" else ops.cast(g, "float32")
    return keras.Model(i, layers.Dense(1)(g))
"""
CASES = {
    "operator": ("GG102", "g = h > 0.0  # cut"),
    "alias": ("GG106", "g = sg(h)  # cut"),
    "call": ("GG104", "g = ops.argmax(h, axis=-1, keepdims=True)  # cut"),
    "layer of a computed name": (
        "GG114",
        "g = layers.Discretization([0.0, 1.0], name=str('bins'))(h)  # cut",
    ),
    "two that fit": (
        "GG104",
        "ops.argmax(h)\ng = ops.argmax(h, -1, keepdims=True)",
    ),
    "handed on": ("GG106", "cut = ops.stop_gradient; g = cut(h)"),
    "handed on beside": (
        "GG106",
        "cut = ops.stop_gradient; cut(h); g = ops.stop_gradient(h)",
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", CASES)
def test_line_of_a_functional_model(case, tmp_path, monkeypatch):
    """It is no line of a function that nobody called."""
    code, line = CASES[case]
    file = tmp_path / f"user_{case.replace(' ', '_')}.py"
    body = f"\ni, h = given()\n{line}\nmodel = closed(i, g)\n"
    text = textwrap.dedent(HEAD) + body
    file.write_text(text)
    names = {"__name__": file.stem, "__file__": str(file)}
    module = types.ModuleType(file.stem)
    vars(module).update(names)
    monkeypatch.setitem(sys.modules, file.stem, module)
    exec(compile(text, str(file), "exec"), vars(module))
    module.model.compile("sgd", "mse")
    callback = GradHealthCallback()
    with alone(module):
        module.model.fit(X, Y, verbose=0, callbacks=[callback])
    found = callback.report.diagnoses[0]
    cut = [n for n, row in enumerate(text.splitlines(), 1) if "# cut" in row]
    assert (code, *(cut or [None])) == (found.code, found.line)


IMPORTS = "import keras\nfrom keras import layers, ops\n"
MODEL = """
i = keras.Input((6,))
h = layers.Dense(4)(i)
g = ops.argmax(h, axis=-1, keepdims=True)  # cut
g = ops.cast(g, "float32")
model = keras.Model(i, layers.Dense(1)(g))
"""
BUILDER = """
MODELS = {}

def kept(build):
    MODELS[build.__name__] = build
    return build

@kept
def own_net():
%s
    return model

model = MODELS["own_net"]()
"""
BUILDER %= textwrap.indent(MODEL.strip(), "    ")
LOOKED_UP = [
    'globals()["own_" + "net"]',
    'getattr(sys.modules[nets.__name__], "own_" + "net")',
    'getattr(nets, "own_" + "net")',
]
SCORE = "def top(x):\n    return ops.argmax(x)\n\nuse = ops.sum\n"
CELLS = os.path.join(tempfile.gettempdir(), "ipykernel_1")
_cells = itertools.count()


def run_cell(text, names):
    """Runs a cell as a notebook does: its source is in no file."""
    file = os.path.join(CELLS, f"{next(_cells)}.py")
    entry = (len(text), None, text.splitlines(keepends=True), file)
    linecache.cache[file] = entry
    exec(compile(text, file, "exec"), names)
    return file


def found_in(model):
    """Fits a model; returns the code, the file and the line that it gets."""
    model.compile("sgd", "mse")
    callback = GradHealthCallback()
    model.fit(X, Y, verbose=0, callbacks=[callback])
    found = callback.report.diagnoses[0]
    return found.code, found.file, found.line


def cut_in(text):
    """The number of the line of a text that is marked as the cut."""
    (line,) = [
        number
        for number, row in enumerate(text.splitlines(), 1)
        if "# cut" in row
    ]
    return line


@pytest.fixture
def notebook():
    """The names of a notebook, and no cell of another test."""
    kept = dict(linecache.cache)
    for name in [n for n in kept if n.startswith(CELLS)]:
        del linecache.cache[name]
    module = types.ModuleType("notebook")
    with alone(module):
        yield vars(module)
    linecache.cache.update(kept)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("body", [MODEL, BUILDER], ids=["plain", "decorated"])
def test_model_of_an_earlier_cell(body, notebook):
    """Each cell has run; a function of another one that did not is none."""
    run_cell(IMPORTS, notebook)
    file = run_cell(body, notebook)
    run_cell(SCORE, notebook)
    assert ("GG104", file, cut_in(body)) == found_in(notebook["model"])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_numpy_makes_no_op_of_keras(notebook):
    """A function of the same name that makes none is no second answer."""
    file = run_cell(IMPORTS + MODEL, notebook)
    run_cell("import numpy as np\nbest = np.argmax(np.ones(3))", notebook)
    line = cut_in(IMPORTS + MODEL)
    assert ("GG104", file, line) == found_in(notebook["model"])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("made", [*LOOKED_UP, "own_net", "renamed"])
def test_model_of_another_module(made, notebook, tmp_path, monkeypatch):
    """The one call that is written is not the one that was looked up."""
    text = BUILDER.replace("@kept\n", "").replace('MODELS["own_net"]()', "0")
    text += "best = ops.argmax(ops.ones(3))\n"
    (tmp_path / "nets_of_ours.py").write_text(IMPORTS + text)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("nets_of_ours", None)
    run_cell(
        "import sys\nimport nets_of_ours as nets\n"
        "from nets_of_ours import *\n"
        "from nets_of_ours import own_net as renamed\n"
        f"model = {made}()",
        notebook,
    )
    assert ("GG104", None, None) == found_in(notebook["model"])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_two_cells_that_fit(notebook):
    """Which of the two has made the model cannot be told."""
    run_cell(IMPORTS + MODEL, notebook)
    run_cell("best = ops.argmax(ops.ones(3))", notebook)
    assert ("GG104", None, None) == found_in(notebook["model"])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("body", [MODEL, BUILDER], ids=["plain", "decorated"])
def test_module_that_is_registered_nowhere(body, notebook, tmp_path):
    """So are those that a loader by path, or `%run`, has loaded."""
    file = tmp_path / "loaded_by_path.py"
    file.write_text(IMPORTS + body)
    spec = importlib.util.spec_from_file_location("loaded_by_path", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run_cell(IMPORTS + SCORE, notebook)
    line = cut_in(IMPORTS + body)
    assert ("GG104", str(file), line) == found_in(module.model)
