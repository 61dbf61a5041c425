"""Which remedies a finding brings, and how they are spelled."""

import ast
import dataclasses
import inspect
import random
import re

import keras
import pytest
import tensorflow as tf

from keras_gradguard.records.finding import Finding, Place
from keras_gradguard.rules import RULES
from keras_gradguard.rules._rule import Remedy
from keras_gradguard.source.dialect import BACKEND, TENSORFLOW, Dialect
from keras_gradguard.source.syntax import call_at

every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
# Rules whose advice may name a function that TensorFlow alone has, mostly the
# one that the user has called.
TENSORFLOW_ONLY = {
    "GG104": "tf.nn.max_pool_with_argmax",
    "GG107": "tf.image, tf.linalg and tf.random",
    "GG108": "tf.print",
    "GG113": "tf.where with one argument",
    "GG114": "tf.histogram_fixed_width, tf.where, tf.math.confusion_matrix",
    "GG115": "tf.random",
    "GG116": "tf.numpy_function, tf.py_function",
    "GG117": "tf.strings",
    "GG120": "tf.GradientTape",
    "GG126": "tf.GradientTape",
    "GG124": "tf.nn.ctc_greedy_decoder",
    "GG223": "tf.math.xlogy",
    "GG230": "tf.math.ndtri",
    "GG307": "tf.function",
    "GG308": "tf.Variable",
}
LINES = """\
import keras
from keras import ops
x = math.log1p(error)
y_pred[:, 0] = 0.0
print(float(error))
scale = float(ops.max(y_pred))
error = max(error, 0.1)
while ops.max(error) > 0.1:
    assert error > 0
count = len(y_pred)
if error > 1.0:
    pair = [(float(a), float(b))]
pair = ops.convert_to_tensor([float(a), float(b)])
rows = ops.nonzero(y_pred > 0.5)
x = keras.layers.Dense(8, "sigmoid", kernel_initializer="zeros")(x)
x = keras.layers.Dense(8, "relu", kernel_initializer="zeros")(x)
x = keras.layers.Dense(8, "tanh", bias_initializer="ones")(x)
x = keras.layers.Dense(8, kernel_constraint=keras.constraints.UnitNorm())(x)
value = keras.Variable(1.0)
value = tf.Variable(1.0)
found = tf.where(x > 0)
share = ops.softmax(y_pred)
mask = ops.equal(y_true, 0)
error = target(x) - y_pred
plateau = keras.callbacks.ReduceLROnPlateau("accuracy", mode="min")
with tape.stop_recording():
    y_pred = self(x)
loss = keras.losses.BinaryCrossentropy()
loss = keras.losses.CategoricalCrossentropy()
network.compile("sgd", loss="binary_crossentropy")
x = keras.layers.SimpleRNN(8, recurrent_initializer=Identity(2.0))(x)
loss = ops.mean(fake) - ops.mean(real)
return -ops.mean(ops.square(y_true - y_pred))
states.write(step, state)
"""
FIELDS = {
    "cause": [
        *(None, "computed_once"),
        *("given_to_others", "left_out", "never_applied"),
    ],
    "layer": [None, "hidden", "multi_head_attention/softmax"],
    "loss": [*(None, "mse", "binary_crossentropy", "categorical_crossentropy")],
    "variables": [
        ("hidden/kernel",),
        ("rnn/recurrent_kernel",),
        ("pooler/kernel",),
    ],
    "path": [
        ("Mean", "Op"),
        ("Mean", "StatelessWhile", "Op"),
        ("Mean", "Log", "AddV2", "Op"),
        ("Log", "Sum", "Op"),
        ("RealDiv", "Op"),
    ],
    "chain": [
        ("Op", "Mean"),
        ("Op", "Cast", "OneHot"),
        ("Op", "Cast", "Equal"),
        ("Op", "Reshape", "Where", "Squeeze", "GatherV2"),
        ("Op", "DenseBincount"),
        ("Op", "StringToNumber"),
        ("Op", "SelectV2"),
    ],
    "input_dtypes": [("float32",), ("float16",), ("int32",)],
    "output_dtype": ["float32", "int32", "bool"],
    "input_ops": [
        ("BiasAdd",),
        ("Softmax",),
        ("Sigmoid",),
        ("RealDiv",),
        ("Mul",),
    ],
    "calls": [
        (),
        ("argsort",),
        ("histogram_fixed_width",),
        ("count_nonzero",),
        ("confusion_matrix",),
        ("bincount",),
        ("clip",),
        ("binary_crossentropy", "clip"),
        ("categorical_crossentropy", "clip"),
        ("update_state",),
        ("std",),
    ],
    "evidence": [
        {},
        {"value": -1.0},
        {"ignore_class": 0},
        {"value": 0.0},
        {"value": [1.0, 0.0]},
        {"value": [-1.0, 2.0]},
        {"activation": "tanh"},
        {"activation": "relu"},
        {"activation": "softmax"},
        {"data": ["x"]},
        {"data": ["x", "y"]},
        {"data": ["sample_weight"]},
        {"schedule": "PolynomialDecay"},
        {"learning_rate": 1e-3, "largest_gradient": 1e20},
        {"schedule": "Warmup"},
        {"learning_rate": -0.1},
        {"changed": "inside fit"},
        {"optimizer": "SGD", "largest_input": 5e3, "reduction": "sum"},
        {"optimizer": "Adam", "learning_rate": 1e-3, "radius": 2.3},
    ],
    "from_start": [None, True, False],
    "step": [None, 0, 50],
    "optimizer": [None, "SGD", "Adam"],
    "variable_dtypes": [(), ("float32",), ("bfloat16",)],
}
# Op types that a rule has a remedy for and does not list.
OPS = {
    "GG243": ("Sign", "Round", "Floor"),
    "GG102": ("Mean",),
    "GG107": ("RandomPoissonV2", "Roll"),
    "GG118": ("AssignVariableOp", "ResourceStridedSliceAssign"),
    "GG124": ("NonMaxSuppressionV3", "CTCGreedyDecoder", "Roll"),
    "GG201": ("Maximum",),
    "GG203": ("Sub",),
    "GG209": ("Softmax", "Sub"),
    "GG210": ("bounded", "Roll"),
    "GG227": ("RealDiv", "Log"),
    "GG230": ("Ndtri", "Angle", "Roll"),
}


def findings(rule, file, number=2500):
    """Draws findings of a rule's kind, of all sorts."""
    pick = random.Random(rule.code)
    lines = LINES.splitlines()
    for _ in range(number):
        line = pick.randrange(3, len(lines) + 1)
        place = Place(
            file, line, "loss", tuple(lines[line - 2 : line + 1]), line - 1
        )
        fields = {name: pick.choice(all_) for name, all_ in FIELDS.items()}
        op = pick.choice((*rule.ops, *OPS.get(rule.code, ()), None))
        fields["call"] = call_at(place)
        yield Finding(rule.kind, place=place, op=op, **fields)


@pytest.fixture
def file(tmp_path):
    """A file with lines of all sorts, which imports only Keras."""
    path = tmp_path / "lines.py"
    path.write_text(LINES)
    return str(path)


@every_rule
def test_each_condition_holds_for_some_and_not_for_others(rule, file):
    """A condition that nothing fulfils, or everything, is none."""
    drawn = list(findings(rule, file))
    seen = {
        (number, remedy.fits(finding))
        for number, remedy in enumerate(rule.help)
        for finding in drawn
    }
    conditional = [n for n, item in enumerate(rule.help) if item.when]
    wanted = {(n, bool_) for n in conditional for bool_ in (True, False)}
    assert wanted <= seen, wanted - seen


@every_rule
def test_remedies_are_at_most_two_and_no_twins(rule, file):
    """No finding brings more than two, nor the same text twice."""
    for finding in findings(rule, file, 500):
        advice = rule.advice(finding)
        assert len(advice) <= 2
        assert len({item.text for item in advice}) == len(advice)


def test_no_remedy_is_better_than_one_that_does_not_fit():
    """A rule gives none where the condition of each fails."""
    never = Remedy(text="never", when=lambda finding: False)
    rule = dataclasses.replace(RULES[0], help=(never,))
    assert rule.advice(Finding(rule.kind)) == ()


@every_rule
def test_advice_for_keras_is_in_keras(rule, file):
    """A file that imports Keras alone is not told to use TensorFlow."""
    texts = set()
    for finding in findings(rule, file, 1000):
        spell = Dialect.at(finding.place).spell
        for item in rule.advice(finding, spell):
            texts |= {item.text, item.before or "", item.after or ""}
    assert (rule.code in TENSORFLOW_ONLY) == any("tf." in t for t in texts)
    assert not any(re.search(r"\bK\.", text) for text in texts)


def snippets():
    """Yields `(code, source)` of each snippet and each text."""
    for rule in RULES:
        for item in rule.help:
            for text in (item.text, item.before, item.after):
                if text:
                    yield rule.code, text


def operations():
    """Returns the names of `ops` in all remedies."""
    found = set()
    for _, text in snippets():
        found.update(re.findall(r"(?<![\w.])ops\.(\w+)", text))
    return sorted(found)


def in_module(module, path):
    """Returns what a dotted path means in a module."""
    for name in path.split("."):
        module = getattr(module, name)
    return module


@pytest.mark.parametrize("name", sorted({*operations(), *TENSORFLOW}))
def test_operation_exists_wherever_it_is_spelled(name):
    """The table names functions that Keras and TensorFlow have."""
    if name in operations():
        assert hasattr(keras.ops, name)
    known = TENSORFLOW.get(name)
    assert known is not None or name in KERAS_ONLY
    if known is not None:
        assert callable(in_module(tf, known))
    if name in BACKEND:
        assert callable(getattr(tf.keras.backend, BACKEND[name]))


# What TensorFlow has no function for with the same arguments.
KERAS_ONLY = ("max_pool", "nonzero")


def calls(text):
    """Yields the calls of `ops` in a snippet: name, arguments, keywords."""
    for at in (text, *text.splitlines()):
        try:
            tree = ast.parse(at.strip())
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            owner = getattr(node.func, "value", None)
            if isinstance(owner, ast.Name) and owner.id == "ops":
                words = [keyword.arg for keyword in node.keywords]
                yield node.func.attr, len(node.args), tuple(words)


@pytest.mark.parametrize(
    ("name", "count", "words"),
    sorted({call for _, text in snippets() for call in calls(text)}),
)
def test_both_dialects_take_the_arguments(name, count, words):
    """What is printed can be called as it stands, with Keras and TF."""
    known = TENSORFLOW.get(name)
    functions = [getattr(keras.ops, name)]
    functions += [] if known is None else [in_module(tf, known)]
    for function in functions:
        arguments = dict.fromkeys(words)
        inspect.signature(function).bind(*count * [None], **arguments)


@pytest.mark.parametrize(
    ("imports", "line", "spelled"),
    [
        ("from keras import ops", "ops.abs(x)", "ops.mean(x)"),
        ("import keras", "keras.ops.abs(x)", "keras.ops.mean(x)"),
        ("import tensorflow as tf", "tf.abs(x)", "tf.reduce_mean(x)"),
        ("from tensorflow import keras", "abs(x)", "keras.ops.mean(x)"),
        (
            "import keras\nimport tensorflow as tf",
            "tf.abs(x)",
            "tf.reduce_mean(x)",
        ),
        (
            "import tensorflow as tf\nfrom keras import backend as K",
            "K.abs(x)",
            "K.mean(x)",
        ),
        ("import keras.ops as knp", "knp.abs(x)", "knp.mean(x)"),
        ("", "abs(x)", "keras.ops.mean(x)"),
    ],
)
def test_snippet_is_in_the_dialect_of_the_line(
    imports, line, spelled, tmp_path
):
    """The line itself decides, then the imports of its file."""
    path = tmp_path / "user.py"
    path.write_text(f"{imports}\ny = {line}\n")
    number = len(path.read_text().splitlines())
    place = Place(str(path), number, "loss", (f"y = {line}",), number)
    assert Dialect.at(place).spell("ops.mean(x)") == spelled
