"""Lines that are looked for in the source: the right one, or none."""

import sys
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
