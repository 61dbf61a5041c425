"""Operators are known by what they make of a tensor of Keras."""

import ast
import re

import keras
import pytest

from keras_gradguard.source.declared import may_call

OPERATORS = """
h + 1.0 | 1.0 + h | h - 1.0 | 1.0 - h | h * 2.0 | h / 2.0 | 2.0 / h | h // 2.0
h % 2.0 | h ** 2 | h @ k | -h | abs(h) | h > 0.5 | 0.5 > h | h < 0.5 | h >= 0.5
h <= 0.5 | 0.5 >= h | h != 0.5 | b & b | b ^ b | ~b
"""
EXPRESSIONS = [e.strip() for e in re.split(r"[|\n]", OPERATORS) if e.strip()]
EXPRESSIONS.append("b | b")


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_operator(expression):
    """The node may call what Keras did call, and nothing else here."""
    names = {
        "h": keras.Input((4,)),
        "k": keras.Input((4, 4)),
        "b": keras.Input((4,), dtype="bool"),
    }
    made = eval(expression, names)
    kind = type(made._keras_history.operation).__name__
    own = re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower()
    node = ast.parse(expression, mode="eval").body
    assert may_call(node, (own,))
    assert not may_call(node, ("stop_gradient", "argmax"))
    assert not may_call(ast.parse("h", mode="eval").body, (own,))
