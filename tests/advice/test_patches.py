"""Each patch that a card shows is one of the user's line, and it helps."""

import importlib.util
import sys

import keras
import numpy as np
import pytest

from keras_gradguard import (
    GradGuardLoss,
    GradHealthCallback,
    GradientBreakError,
    check_loss,
    diagnose,
)
from keras_gradguard.advice import rewrites
from keras_gradguard.advice.fix import file_patches, fixed
from keras_gradguard.advice.site import SAME, Rewrite, Site, edited
from keras_gradguard.records.finding import Finding, Place
from tests.fitting import MODES, NAMES

modes = pytest.mark.parametrize("eager", MODES, ids=NAMES)
X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = np.eye(3, dtype="float32")[np.random.default_rng(1).integers(0, 3, 32)]

OPS = "from keras import ops\n\n\n"
TF = "import tensorflow as tf\n\n\n"
KERAS = "import keras\n\n\n"
# The imports, the body of a loss, the code, and the lines of the patch.
CASES = {
    "comparison": (
        OPS,
        'return ops.mean(ops.cast(y_pred > 0.5, "float32") - y_true)',
        "GG102",
        "return ops.mean(ops.sigmoid(10.0 * (y_pred - 0.5)) - y_true)",
    ),
    "comparison_of_tf": (
        TF,
        "return tf.reduce_mean(tf.cast(0.5 >= y_pred, tf.float32) - y_true)",
        "GG102",
        "return tf.reduce_mean(tf.sigmoid(10.0 * (0.5 - y_pred)) - y_true)",
    ),
    "comparison_of_keras": (
        KERAS,
        "hit = keras.ops.where(y_pred > 0.5, 1.0, 0.0)\n"
        "    return keras.ops.mean(hit - y_true)",
        "GG102",
        "hit = keras.ops.sigmoid(10.0 * (y_pred - 0.5))",
    ),
    "match": (
        OPS,
        "same = ops.equal(ops.argmax(y_true, 1), ops.argmax(y_pred, 1))\n"
        '    return 1.0 - ops.mean(ops.cast(same, "float32"))',
        "GG104",
        "same = ops.sum(y_true * ops.softmax(y_pred, axis=1), axis=1)",
    ),
    "one_hot": (
        TF,
        "code = tf.one_hot(tf.argmax(y_pred, -1), 3)\n"
        "    return tf.reduce_mean(tf.abs(code - y_true))",
        "GG104",
        "code = tf.nn.softmax(10.0 * y_pred, axis=-1)",
    ),
    "rounding": (
        OPS,
        "return ops.mean(ops.square(ops.round(y_pred) - y_true))",
        "GG105",
        "return ops.mean(ops.square(y_pred - y_true))",
    ),
    "whole_numbers": (
        OPS,
        'level = ops.cast(y_pred, "int32")\n'
        '    return ops.mean(ops.cast(level, "float32") - y_true)',
        "GG103",
        "level = y_pred",
    ),
    "stop": (
        OPS,
        "return ops.mean(ops.square(ops.stop_gradient(y_pred) - y_true))",
        "GG106",
        "return ops.mean(ops.square(y_pred - y_true))",
    ),
    "numpy": (
        "import numpy as np\nfrom keras import ops\n\n\n",
        "gap = np.abs(y_pred - y_true)\n    return np.mean(gap)",
        "GG101",
        "gap = ops.abs(y_pred - y_true)",
    ),
    "float": (
        OPS,
        "return ops.mean(ops.square(y_true - float(ops.mean(y_pred))))",
        "GG108",
        "return ops.mean(ops.square(y_true - ops.mean(y_pred)))",
    ),
    "sign": (
        OPS,
        "return ops.mean(ops.square(ops.sign(y_pred) - y_true))",
        "GG202",
        "return ops.mean(ops.square(ops.tanh(10.0 * y_pred) - y_true))",
    ),
    "logarithm": (
        OPS,
        "return -ops.mean(y_true * ops.log(ops.relu(y_pred)))",
        "GG223",
        "return -ops.mean(y_true * ops.log(ops.relu(y_pred) + 1e-7))",
    ),
    # The part is 0, and so is its own gradient.
    "logarithm_of_a_quotient": (
        OPS,
        "part = ops.sum(y_true * ops.relu(y_pred - 9.0), -1)\n"
        "    total = ops.sum(y_true + ops.square(y_pred), -1)\n"
        "    return -ops.log(part / total)",
        "GG223",
        "return -ops.log((part + 1e-7) / (total + 1e-7))",
    ),
    "root": (
        OPS,
        "return ops.mean(ops.sqrt(ops.relu(y_pred)) - y_true)",
        "GG226",
        "return ops.mean(ops.sqrt(ops.relu(y_pred) + 1e-7) - y_true)",
    ),
    "unchosen_side": (
        OPS,
        "part = ops.relu(y_pred)\n"
        "    good = part > 0.0\n"
        "    return ops.mean(ops.where(good, part * ops.log(part), part))",
        "GG227",
        "return ops.mean(ops.where(good, part * ops.log("
        "ops.where(good, part, ops.ones_like(part))), part))",
    ),
    "jump": (
        OPS,
        "error = ops.abs(y_true - y_pred)\n"
        "    far = error > 1.0\n"
        "    return ops.mean(ops.where(far, 3.0 * error, error))",
        "GG241",
        "far = ops.sigmoid(10.0 * (error - 1.0))",
    ),
    "addend": (
        OPS,
        "soft = ops.mean(ops.square(y_pred - y_true))\n"
        "    return soft + 3.0 * ops.mean(ops.abs(ops.round(y_pred)))",
        "GG105",
        "return soft + 3.0 * ops.mean(ops.abs(y_pred))",
    ),
}
FILES = ("patched_loss.py", "again.py", "attribute.py")
# What only fails where a step is compiled.
COMPILED = {
    "if": (
        OPS,
        "error = ops.mean(ops.abs(y_true - y_pred))\n"
        "    if error > 1.0:\n"
        "        return error\n"
        "    return 0.5 * (error * error + 1.0)",
        "GG109",
        "return ops.where(error > 1.0, error, 0.5 * (error * error + 1.0))",
    ),
    "largest": (
        OPS,
        "return max(ops.mean(ops.abs(y_true - y_pred)), 0.1)",
        "GG109",
        "return ops.maximum(ops.mean(ops.abs(y_true - y_pred)), 0.1)",
    ),
}


@pytest.fixture(autouse=True)
def _modules_are_forgotten():
    """Lines of layers are looked for in all modules that are loaded."""
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).endswith(FILES):
            del sys.modules[name]


def module_of(folder, head, body, name="patched_loss"):
    """Writes a file with a loss, and imports it."""
    path = folder / f"{name}.py"
    path.write_text(f"{head}def loss(y_true, y_pred):\n    {body}\n")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def network(loss, eager):
    """A small classifier."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8, "tanh"), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile("sgd", loss, run_eagerly=eager)
    return model


def fitted(loss, eager):
    """Trains two steps; returns the report and the weights."""
    callback, model = GradHealthCallback(every=1), network(loss, eager)
    try:
        model.fit(X, Y, batch_size=16, verbose=0, callbacks=[callback])
    except Exception:  # noqa: BLE001
        # What a cut raises is not the subject here.
        assert callback.report.diagnoses
    return callback.report, model


def assert_patched(report, code, line, path):
    """The first help of the card is the line, and it was checked."""
    told = next(d for d in report.diagnoses if d.code == code)
    (item,) = told.help
    assert item.checked and item.patch.file == str(path)
    after = [text.strip() for text in item.after.splitlines()]
    assert after[0] == line
    assert f"(checked: {item.checked})" in " ".join(str(told).split())


@modes
@pytest.mark.parametrize("case", [*CASES, *COMPILED])
def test_patch_of_a_line(case, eager, tmp_path):
    """It is made of the line, in its dialect, and the patched file trains."""
    if eager and case in COMPILED:
        pytest.skip("this code runs eagerly")
    head, body, code, line = {**CASES, **COMPILED}[case]
    module = module_of(tmp_path, head, body)
    path = tmp_path / "patched_loss.py"
    before = module.loss.__code__
    report, _ = fitted(module.loss, eager)
    assert module.loss.__code__ is before
    assert_patched(report, code, line, path)
    old, new = fixed(str(path), file_patches(report)[str(path)])
    assert old == path.read_text() != new
    again = module_of(
        tmp_path, *new.split("def loss(y_true, y_pred):\n    "), name="again"
    )
    report, model = fitted(again.loss, eager)
    assert [d for d in report.diagnoses if d.severity != "note"] == []
    assert all(np.isfinite(w).all() for w in model.get_weights())


@pytest.mark.parametrize("case", sorted(CASES))
def test_patch_without_training(case, tmp_path):
    """`diagnose` and `check_loss` try it as well."""
    head, body, code, line = CASES[case]
    module = module_of(tmp_path, head, body)
    path = tmp_path / "patched_loss.py"
    model = network(module.loss, False)
    if case != "jump":
        assert_patched(diagnose(model, X, Y), code, line, path)
    if case != "unchosen_side":
        scores = np.asarray(model(X))
        assert_patched(check_loss(module.loss, Y, scores), code, line, path)


def test_no_patch_where_none_helps(tmp_path):
    """Advice for a value that stays an index is general."""
    body = (
        "best = ops.argmax(y_pred, -1)\n"
        "    return ops.mean(ops.take(y_true, best, axis=1))"
    )
    module = module_of(tmp_path, OPS, body)
    report, _ = fitted(module.loss, False)
    assert report.diagnoses
    for told in report.diagnoses:
        assert all(item.patch is None for item in told.help)
        assert all("checked" not in item.text for item in told.help)


def test_patch_of_another_line_is_not_shown(tmp_path):
    """Of two cuts side by side each has a patch of its own line, or none."""
    body = (
        "same = ops.equal(ops.argmax(y_true, 1), ops.argmax(y_pred, 1))\n"
        "    hits = ops.mean(ops.cast(same, 'float32'))\n"
        "    level = ops.max(y_pred, axis=1)\n"
        "    return ops.square(hits - ops.cast(level > 0.5, 'float32'))"
    )
    module = module_of(tmp_path, OPS, body)
    report, _ = fitted(module.loss, False)
    lines = {"GG104": 5, "GG102": 8}
    assert {d.code: d.line for d in report.diagnoses} == lines
    for told in report.diagnoses:
        (item,) = told.help
        assert [told.line] == [line for line, *_ in item.patch.changes]


def test_method_and_closure_are_tried_too(tmp_path):
    """The functions that hold the line are found wherever they are held."""
    body = (
        "def level(scores):\n"
        "        return ops.round(scores)\n\n"
        "    return ops.mean(ops.square(level(y_pred) - y_true))"
    )
    module = module_of(tmp_path, OPS, body)
    report, _ = fitted(module.loss, False)
    path = tmp_path / "patched_loss.py"
    assert_patched(report, "GG105", "return scores", path)


def test_weights_are_those_of_a_training_without_the_guard(tmp_path):
    """A trial runs the step elsewhere, with random numbers of its own."""
    body = (
        "noise = keras.random.normal(keras.ops.shape(y_pred))\n"
        "    soft = keras.ops.mean(keras.ops.square(y_pred + noise - y_true))\n"
        "    return soft + 3.0 * keras.ops.mean(keras.ops.round(y_pred))"
    )
    module = module_of(tmp_path, KERAS, body)
    plain = network(module.loss, False)
    plain.fit(X, Y, batch_size=16, verbose=0)
    report, guarded = fitted(module.loss, False)
    assert report.diagnoses[0].help[0].checked
    for one, other in zip(
        plain.get_weights(), guarded.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@modes
def test_nothing_of_the_step_is_kept(eager, tmp_path):
    """Traces, batches and copies of weights go once the line is known."""
    for case in ("logarithm", "rounding", "addend"):
        head, body, *_ = CASES[case]
        module = module_of(tmp_path, head, body)
        callback, model = GradHealthCallback(every=1), network(module.loss, 0)
        model.run_eagerly = eager
        try:
            model.fit(X, Y, batch_size=16, verbose=0, callbacks=[callback])
        except GradientBreakError:
            assert case == "rounding"
        patches = callback._log.patches
        assert (patches.step, patches.weights) == (None, ())


@modes
def test_functions_keep_their_code(eager, tmp_path):
    """A `tf.function` that a trial calls keeps no trace of the change."""
    # AutoGraph takes functions of the same code for one, in whatever file.
    name = f"level_{NAMES[eager]}"
    inner = (
        f"@tf.function\ndef {name}(scores):\n"
        "    return tf.reduce_mean(tf.abs(tf.round(scores)))\n\n\n"
    )
    module = module_of(
        tmp_path,
        TF + inner,
        f"return tf.reduce_mean((y_pred - y_true) ** 2) + {name}(y_pred)",
    )
    scores = np.float32([[0.4, 1.6, 1.0]])
    weights = []
    for callbacks in ([], [GradHealthCallback(every=1)]):
        model = network(module.loss, eager)
        # The last batch is smaller: its trace is made after the trial.
        model.fit(X[:24], Y[:24], batch_size=16, verbose=0, callbacks=callbacks)
        weights.append(model.get_weights())
    report = callbacks[0].report
    assert_patched(
        report,
        "GG105",
        "return tf.reduce_mean(tf.abs(scores))",
        tmp_path / "patched_loss.py",
    )
    level = getattr(module, name)
    assert level(scores).numpy() == np.float32(1.0)
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_value_that_is_said_to_stay_is_compared(tmp_path, monkeypatch):
    """A change that passes a gradient, and another value, is not shown."""

    def other_value(site):
        for call in site.calls("stop_gradient"):
            text = f"2.0 * {site.source(call.args[0])}"
            yield Rewrite("double it", (site.replace(call, text),), SAME)

    monkeypatch.setitem(rewrites._PROPOSALS, "GG106", (other_value,))
    head, body, *_ = CASES["stop"]
    module = module_of(tmp_path, head, body)
    model = network(module.loss, False)
    scores = np.asarray(model(X))
    for report in (
        diagnose(model, X, Y),
        check_loss(module.loss, Y, scores),
    ):
        (told,) = report.diagnoses
        assert all(item.patch is None for item in told.help)


def test_call_of_numpy_around_a_sum_keeps_its_parentheses(tmp_path):
    """What follows the call belongs to all of its argument."""
    body = "return ops.mean(np.square(np.array(y_true - y_pred)).mean())"
    head = "import numpy as np\nfrom keras import ops\n\n\n"
    module = module_of(tmp_path, head, body)
    finding = Finding(
        "untraceable", Place(module.__file__, 6, "loss", (), None)
    )
    (first, *_) = rewrites.rewrites(Site(finding), "GG101")
    text = edited(Site(finding).text, first.edits)
    assert "ops.square(y_true - y_pred)" in text
    line = "return np.array(y_true - y_pred).sum()"
    module = module_of(tmp_path, head, line, "attribute")
    finding = Finding(
        "untraceable", Place(module.__file__, 6, "loss", (), None)
    )
    (first, *_) = rewrites.rewrites(Site(finding), "GG101")
    text = edited(Site(finding).text, first.edits)
    assert "return (y_true - y_pred).sum()" in text


@pytest.mark.parametrize("wrap", [False, True])
def test_loss_scale_and_wrapper(wrap, tmp_path):
    """Gradients times a loss scale are not too large; the wrapper tries too."""
    case = "rounding" if wrap else "logarithm"
    head, body, code, line = CASES[case]
    module = module_of(tmp_path, head, body)
    path = tmp_path / "patched_loss.py"
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        if wrap:
            model = network(GradGuardLoss(module.loss), False)
            with pytest.raises(GradientBreakError) as caught:
                model.fit(X, Y, batch_size=16, verbose=0)
            report = caught.value.report
        else:
            report, _ = fitted(module.loss, False)
    finally:
        keras.config.set_dtype_policy(policy)
    assert_patched(report, code, line, path)
