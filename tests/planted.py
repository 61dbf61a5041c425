"""Random programs with one known fault at a known line, for hypothesis.

A program is the source of a module: a loss and perhaps a layer, of steps that
each pass a gradient on, one statement a line, perhaps inside a helper, a
branch or a loop. A fault is one line more.
"""

import dataclasses

from hypothesis import strategies as st

STEPS = (
    "tf.tanh(x) + 0.3 * x",
    "2.0 * tf.sigmoid(x) - 0.5",
    "tf.nn.softplus(x) - 0.5",
    "0.6 * x + 0.1 * tf.sin(3.0 * x)",
    "x + x * x / (1.0 + x * x)",
    "x - 0.5 * tf.reduce_mean(x, axis=1, keepdims=True)",
    "x - 0.5 * tf.reduce_mean(x, axis=0)",
    "tf.gather(x, [2, 0, 3, 1], axis=1)",
    "tf.concat([x[:, 2:], x[:, :2]], axis=1)",
    "tf.reshape(tf.transpose(x), tf.shape(x))",
    "tf.stack(tf.unstack(x, axis=1)[::-1], axis=1)",
    "tf.matmul(x, MATRIX)",
    "tf.einsum('ij,jk->ik', x, MATRIX)",
    "x / tf.sqrt(1.0 + tf.reduce_sum(x * x, axis=1, keepdims=True))",
    "tf.math.log(1.5 + tf.exp(x))",
    "x + 0.5 * tf.nn.softmax(x)",
    "tf.where(x > 0.0, x, 0.5 * x)",
    "x * (1.5 + 0.2 * tf.sign(MATRIX[0]))",
    "tf.clip_by_value(x, -90.0, 90.0) + 0.1 * tf.round(3.0 * MATRIX[:1])",
    "keras.ops.tanh(x) + 0.3 * x",
    "keras.ops.matmul(x, MATRIX)",
    "keras.ops.flip(keras.ops.reshape(x, (-1, 4)), axis=0)",
    "keras.ops.where(keras.ops.abs(x) < 50.0, x, 50.0)",
    "keras.ops.logaddexp(x, 0.5) - 0.3",
    "keras.activations.softplus(x) + 0.4 * x",
)

FAULTS = {
    "disconnected": (
        "tf.cast(x > 0.1, x.dtype)",
        "tf.round(2.0 * x)",
        "tf.stop_gradient(x)",
        "tf.one_hot(tf.argmax(x, axis=1), 4)",
        "tf.cast(tf.cast(10.0 * x, 'int32'), 'float32')",
        "tf.cast(tf.math.top_k(x, 4).indices, 'float32')",
        "tf.where(x > 0.1, 1.0, -0.5)",
        "tf.floor(3.0 * x)",
        "keras.ops.stop_gradient(tf.tanh(x))",
        "keras.ops.one_hot(keras.ops.argmax(x, axis=-1), 4)",
        "keras.ops.cast(keras.ops.greater(x, 0.1), 'float32')",
    ),
    "zero": (
        "tf.sign(x)",
        "keras.ops.sign(x - 0.01)",
        "tf.clip_by_value(x, 50.0, 60.0) - 49.5",
        "tf.maximum(x - 50.0, 0.3)",
        "tf.minimum(x + 50.0, 0.4)",
        "x * tf.zeros_like(x) + 0.3",
        "x - x + 0.2",
        "tf.tanh(x + 60.0)",
        "tf.sigmoid(x + 120.0) - 0.3",
        "tf.nn.softmax(x[:, :1]) * tf.ones_like(x)",
    ),
    "nonfinite": (
        "tf.math.log(tf.nn.relu(-tf.abs(x)))",
        "x / tf.zeros_like(x)",
        "x / (x - x)",
        "tf.exp(1000.0 * (2.0 + tf.tanh(x)))",
        "tf.math.log(x - 50.0)",
        "tf.sqrt(x - 50.0)",
        "tf.pow(x - 50.0, 0.5)",
        "keras.ops.log(keras.ops.relu(x - 50.0))",
        "keras.ops.arccos(x + 50.0)",
        "tf.sqrt(x * 0.0) + 0.3",
        "tf.pow(tf.abs(x) * 0.0, 0.5) + x",
        "tf.norm(x * 0.0, axis=1, keepdims=True) + x",
        "tf.where(x < 50.0, x, x / tf.zeros_like(x))",
        "tf.where(x < 50.0, x, tf.sqrt(x * 0.0))",
        "x + tf.math.atan2(x * 0.0, x * 0.0)",
        "keras.ops.norm(x * 0.0, axis=1, keepdims=True) + x",
    ),
}

# How the outer function calls the one with the inner steps.
WRAPS = {
    "flat": None,
    "helper": "x = body(x)",
    "graph helper": "x = body(x)",
    "nested helper": "x = body(x)",
    "lambda": "x = (lambda z: body(z))(x)",
    "cond": (
        "x = tf.cond(tf.reduce_mean(x) < 90.0, lambda: body(x), lambda: x)"
    ),
    "other side of cond": (
        "x = tf.cond(tf.reduce_mean(x) > 90.0, lambda: x, lambda: body(x))"
    ),
    "both sides of cond": (
        "x = tf.cond(x[0, 0] > 0.0, lambda: body(x), lambda: body(x))"
    ),
    "switch": "x = tf.switch_case(ONE, [lambda: x, lambda: body(x)])",
    "while": (
        "x = tf.while_loop(lambda i, x: i < 2, "
        "lambda i, x: (i + 1, body(x)), (0, x))[1]"
    ),
    "map": (
        "x = tf.reshape(tf.map_fn(body, tf.reshape(x, (2, 4, 4))), (8, 4))"
    ),
}
ENDS = (
    "tf.reduce_mean(tf.square(y_true - x))",
    "tf.reduce_mean(tf.square(y_true - x), axis=1)",
    "keras.losses.mean_squared_error(y_true, x)",
    "tf.reduce_mean(tf.math.softplus(y_true - x) + 0.5 * tf.square(x))",
)
LAYERS = (
    "keras.layers.Dense(5, 'tanh')",
    "keras.layers.Dense(4, 'softplus')",
    "keras.layers.LayerNormalization()",
)
FIRST = (
    "keras.Input((6,)), keras.layers.Dense(5, 'tanh')",
    "keras.Input((6,)), keras.layers.Dense(4, 'silu')",
    "keras.Input((5, 3)), keras.layers.GRU(4)",
    "keras.Input((5, 3)), keras.layers.Conv1D(4, 2, activation='tanh'), "
    "keras.layers.GlobalAveragePooling1D()",
)
MODES = 8 * ("compiled",) + ("xla",) + 7 * ("eager",)

_HEAD = """\
import keras
import tensorflow as tf

MATRIX = tf.eye(4) + 0.3 * tf.cos(tf.reshape(tf.range(16.0), (4, 4)))
ONE = tf.constant(1)
BEFORE = tf.Variable(tf.zeros(4))
AFTER = tf.Variable(tf.zeros(4))

"""


@dataclasses.dataclass(frozen=True)
class Program:
    """A module to be written, and what is wrong with it.

    Args:
        source: Its text; it has `loss(y_true, y_pred)` and `model()`.
        probed: The text with `BEFORE` added to what goes into the fault and
            `AFTER` to what comes out of it.
        kind: The kind of fault, or `None`.
        line: Its line in `source`, or `None`.
        mode: `"compiled"`, `"eager"` or `"xla"`.
    """

    source: str
    probed: str
    kind: str | None
    line: int | None
    mode: str


def programs(kinds=(None,), only_loss=False):
    """Returns a strategy of `Program`s with a fault of one of some kinds.

    One string of bytes makes all the choices: of several draws hypothesis
    would make five variants each, and few programs that are new.
    """
    choices = st.binary(min_size=24, max_size=24)
    return choices.map(lambda given: _program(given, kinds, only_loss))


def _program(choices, kinds, only_loss):
    choices = iter(choices)

    def pick(options):
        return options[next(choices) % len(options)]

    kind, wrap, place = pick(kinds), pick(tuple(WRAPS)), pick(PLACES)
    mode, part, at = pick(MODES), pick((1, 1, 0, 2)), next(choices)
    end, first = pick(ENDS), pick(FIRST)
    hidden = [pick(LAYERS) for _ in range(pick((0, 1, 2)))]
    if only_loss:
        place, mode = "loss", "eager"
    parts = [[pick(STEPS) for _ in range(pick(range(4)))] for _ in range(3)]
    if kind is not None:
        fault = (pick(FAULTS[kind]),)
        parts[part].insert(at % (len(parts[part]) + 1), fault)
    texts = [
        _module(parts, place, wrap, end, first, hidden, is_probed)
        for is_probed in (False, True)
    ]
    lines = [text.endswith("# fault") for text in texts[0].splitlines()]
    line = lines.index(True) + 1 if kind is not None else None
    return Program(*texts, kind, line, mode)


PLACES = ("loss", "loss", "layer", "function")


def _module(parts, place, wrap, end, first, hidden, is_probed):
    outer, inner = _function(parts, wrap, is_probed)
    outside = [] if wrap == "nested helper" else inner
    body = [*(inner if wrap == "nested helper" else ()), *outer]
    lines = [*outside, ""]
    middle = ""
    if place == "function":
        lines += ["def steps(x):", *_indented([*body, "return x"]), ""]
        middle = "keras.layers.Lambda(steps, name='planted'), "
    elif place == "layer":
        lines += ["class Steps(keras.layers.Layer):", "    def call(self, x):"]
        lines += _indented(_indented([*body, "return x"])) + [""]
        middle = "Steps(name='planted'), "
    of_loss = body if place == "loss" else []
    lines += ["def loss(y_true, y_pred):"]
    lines += _indented(["x = y_pred", *of_loss, f"return {end}"])
    head = "keras.layers.Dense(4)"
    before = f"{head}, {middle}" if middle else ""
    hidden = "".join(f"{layer}, " for layer in hidden)
    layers = f"[{first}, {before}{hidden}{head}]"
    lines += ["", "def model():", f"    return keras.Sequential({layers})"]
    return _HEAD + "\n".join(lines) + "\n"


def _function(parts, wrap, is_probed):
    """The statements of the outer function, and the inner function."""
    before, inside, after = (_statements(part, is_probed) for part in parts)
    if WRAPS[wrap] is None:
        return [*before, *inside, *after], []
    inner = ["def body(x):", *_indented([*inside, "return x"])]
    if wrap == "graph helper":
        inner = ["@tf.function", *inner]
    return [*before, WRAPS[wrap], *after], inner


def _statements(steps, is_probed):
    lines = []
    for step in steps:
        if isinstance(step, str):
            lines.append(f"x = {step}")
        elif is_probed:
            lines += ["x = x + BEFORE", f"x = {step[0]}", "x = x + AFTER"]
        else:
            lines.append(f"x = {step[0]}  # fault")
    return lines


def _indented(lines):
    return [f"    {line}" for line in lines]
