"""Which call of a layer's class may have made a layer."""

import ast
import random

import pytest
from keras import layers

from keras_gradguard.source.declared import may_make

CALLS = """
layers.Embedding(5, 3)
layers.Embedding(5, 3, "zeros")
layers.Dense(4)
layers.Dense(4, "swish")
layers.Dense(4, activation="relu")
layers.Dense(4, kernel_initializer="normal", bias_initializer="zero")
layers.Dense(4, kernel_regularizer="l2")
layers.Conv2D(4, 3)
layers.Conv2D(4, 3, padding="SAME")
layers.LeakyReLU(alpha=0.2)
layers.Bidirectional(layers.LSTM(3))
layers.Lambda(lambda x: x)
""".split("\n")[1:-1]
OTHERS = """
layers.Embedding(5, 3, "zeros") | layers.Embedding(5, 3)
layers.Dense(4, "relu") | layers.Dense(4)
layers.Dense(4) | layers.Dense(4, "silu")
layers.Dense(4, "gelu") | layers.Dense(4, "silu")
layers.Dense(5) | layers.Dense(4)
layers.Dense(4) | layers.Dense(4, kernel_regularizer="l2")
layers.Conv2D(3, 3, padding="same") | layers.Conv2D(3, 3)
layers.Dense(4) | layers.Dense(4, use_bias=False)
""".split("\n")[1:-1]


def parsed(call):
    """Returns the syntax of a call."""
    return ast.parse(call, mode="eval").body


@pytest.mark.parametrize("call", CALLS)
def test_call_that_made_a_layer(call):
    """Defaults and other names for the same thing do not contradict it."""
    assert may_make(parsed(call), eval(call, {"layers": layers}))


@pytest.mark.parametrize("pair", OTHERS)
def test_call_that_made_another_layer(pair):
    """A call whose plain values differ has made another one."""
    call, made = pair.split(" | ")
    assert not may_make(parsed(call), eval(made, {"layers": layers}))


def test_random_state_stays():
    """An initializer that Keras makes for a name would draw its seed."""
    layer = layers.Dense(4)
    for call in CALLS[2:6]:
        state = random.getstate()
        may_make(parsed(call), layer)
        assert random.getstate() == state
