"""Programs to which the remedies of the rules are applied.

`PAGES[code, text]` is a module like a rule's bad example, for a remedy that
is meant for another situation than that. Each prints the remedy's `before`
somewhere; the rule must flag the page and choose the remedy for it.
"""

_LOSS = """\
import keras
import numpy as np
import tensorflow as tf
from keras import ops

{extra}
def loss(y_true, y_pred):
{body}
"""
_MODEL = """\
import keras
import numpy as np
import tensorflow as tf
from keras import ops

{extra}
def model():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(8, activation="tanh", name="hidden")(inputs)
    x = keras.layers.Lambda(middle, name="middle")(x)
    network = keras.Model(inputs, keras.layers.Dense(3, name="head")(x))
    network.compile("sgd", loss="mse")
    return network
"""


def _indented(text):
    return "".join(f"    {line}\n" for line in text.strip().splitlines())


def _loss(body, extra=""):
    return _LOSS.format(body=_indented(body), extra=extra)


def _layer(body):
    """A model whose middle layer computes `x` from `x`."""
    body = _indented(f"{body.strip()}\nreturn x")
    return _MODEL.format(extra=f"\ndef middle(x):\n{body}\n")


def _network(body, extra="", compiled='"sgd", loss="mse"', epochs=8):
    """A model of layers that `body` computes from `x`."""
    return (
        "import keras\nimport numpy as np\nimport tensorflow as tf\n"
        f"from keras import ops\n\n{extra}\n\ndef model():\n"
        "    inputs = x = keras.Input((4,))\n"
        + _indented(body)
        + "    network = keras.Model(inputs, x)\n"
        + f"    network.compile({compiled})\n    return network\n\n\n"
        f"EPOCHS = {epochs}\n"
    )
