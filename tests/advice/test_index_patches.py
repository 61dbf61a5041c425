"""Soft forms are close to the hard ones, and trainings on the tape mend."""

import importlib.util
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback
from keras_gradguard.advice.fix import file_patches, fixed
from tests.advice.test_patches import (
    KERAS,
    OPS,
    TF,
    X,
    Y,
    fitted,
    module_of,
)
from tests.fitting import MODES, NAMES

modes = pytest.mark.parametrize("eager", MODES, ids=NAMES)
# No two scores of a row, and no score and threshold, are near each other.
APART = np.float32([[5, 1, -5], [-4, 6, 2], [1, 9, 4]])
WHOLE = np.float32([[1, 0, 2], [2, 0, 1], [0, 2, 1]])
FILES = ("patched_loss.py", "again.py", "trainer.py", "trainer_again.py")
MEAN = "    return ops.mean(ops.square(2.0 * y_true - {}))"
TF_MEAN = "    return tf.reduce_mean(tf.square(2.0 * y_true - {}))"
TABLE = "TABLE = ops.array([1.0, 2.0, 4.0, 8.0])\n\n\n"
COSTS = "COSTS = tf.constant([[1.0, 2.0], [3.0, 1.0], [9.0, 4.0]])\n\n\n"
IMAGE = "image = (y_true - y_pred)[:, tf.newaxis, :, tf.newaxis]\n    "
# The imports, the body of a loss, the code, and what the patch holds; the
# scores that the soft form and the hard one are compared on.
CASES = {
    "rank": (
        OPS,
        "rank = ops.argsort(ops.argsort(y_pred, axis=-1), axis=-1)\n"
        + MEAN.format('ops.cast(rank, "float32")'),
        "GG111",
        "rank = ops.sum(ops.sigmoid(10.0 * (y_pred[..., :, None] - "
        "y_pred[..., None, :])), axis=-1) - 0.5",
        APART,
    ),
    "place_from_the_largest": (
        TF,
        "way = tf.argsort(y_pred, direction='DESCENDING')\n"
        "    place = tf.cast(tf.argsort(way), tf.float32)\n"
        + TF_MEAN.format("place"),
        "GG111",
        "place = tf.reduce_sum(tf.sigmoid(-10.0 * gaps), axis=-1) - 0.5",
        APART,
    ),
    "best": (
        OPS,
        "_, best = ops.top_k(y_pred, k=1)\n"
        + MEAN.format("ops.cast(best, 'float32')"),
        "GG111",
        "best = ops.sum(ops.softmax(10.0 * y_pred, axis=-1) * ops.cast("
        'ops.arange(ops.shape(y_pred)[-1]), "float32"), axis=-1, '
        "keepdims=True)",
        APART,
    ),
    "best_of_tf": (
        TF,
        "best = tf.cast(tf.math.top_k(y_pred).indices, tf.float32)\n"
        + TF_MEAN.format("best"),
        "GG111",
        "best = tf.reduce_sum(tf.nn.softmax(10.0 * y_pred, axis=-1) * tf.cast("
        'tf.range(tf.shape(y_pred)[-1]), "float32"), axis=-1, keepdims=True)',
        APART,
    ),
    "code": (
        OPS,
        "label = ops.cast(ops.round(y_pred[:, 0]), 'int32')\n"
        "    code = ops.one_hot(label, num_classes=3)\n" + MEAN.format("code"),
        "GG105",
        "label = y_pred[:, 0]",
        WHOLE,
    ),
    "code_of_tf": (
        TF,
        "code = tf.one_hot(tf.cast(y_pred[:, 0], tf.int32), depth=3)\n"
        + TF_MEAN.format("code"),
        "GG112",
        "code = tf.nn.softmax(-10.0 * tf.square(y_pred[:, 0][..., None] - "
        'tf.cast(tf.range(3), "float32")), axis=-1)',
        WHOLE,
    ),
    "mask": (
        TF,
        "seen = tf.where(y_pred > 0.5)\n"
        "    return tf.reduce_mean(1.0 - tf.gather_nd(y_true, seen))",
        "GG113",
        "return tf.reduce_sum(seen * (1.0 - y_true)) / tf.reduce_sum(seen)",
        APART,
    ),
    "boolean_mask": (
        TF,
        "return tf.reduce_sum(tf.boolean_mask(y_true - 1.0, y_pred > 0.5))",
        "GG113",
        "return tf.reduce_sum(tf.sigmoid(10.0 * (y_pred - 0.5)) * "
        "(y_true - 1.0))",
        APART,
    ),
    "histogram": (
        TF,
        "n = tf.histogram_fixed_width(y_pred, value_range=(-10.0, 20.0), "
        "nbins=3)\n"
        "    return tf.reduce_mean(tf.cast(n, tf.float32) * [1.0, 2.0, 4.0])",
        "GG114",
        "n = tf.reduce_sum(tf.nn.softmax(-10.0 * tf.square(("
        "tf.reshape(y_pred, (-1, 1)) - tf.linspace(-5.0, 15.0, 3)) / 10.0), "
        "axis=-1), axis=0)",
        np.float32([[-9, -6, -3], [4, 6, 4], [14, 18, 16]]),
    ),
    "bins": (
        OPS,
        "n = ops.digitize(y_pred, [-3.0, 0.0, 3.0])\n"
        + MEAN.format('ops.cast(n, "float32")'),
        "GG114",
        "n = ops.sum(ops.sigmoid(10.0 * (y_pred[..., None] - "
        "ops.convert_to_tensor([-3.0, 0.0, 3.0]))), axis=-1)",
        APART,
    ),
    "bins_of_tf": (
        TF,
        "n = tf.searchsorted([-3.0, 0.0, 3.0], tf.reshape(y_pred, [-1]))\n"
        "    return tf.reduce_mean(tf.square(tf.cast(n, tf.float32) - 1.0))",
        "GG114",
        "n = tf.reduce_sum(tf.sigmoid(10.0 * (tf.reshape(y_pred, [-1])"
        "[..., :, None] - tf.convert_to_tensor([-3.0, 0.0, 3.0])"
        "[..., None, :])), axis=-1)",
        APART,
    ),
    "count": (
        OPS,
        "bins = ops.cast(ops.reshape(ops.abs(y_pred), (-1,)), 'int32')\n"
        "    n = ops.cast(ops.bincount(bins, minlength=3), 'float32')\n"
        "    return ops.mean(ops.square(n - 2.0))",
        "GG114",
        "bins = ops.reshape(ops.abs(y_pred), (-1,))",
        WHOLE,
    ),
    "match_of_a_rounded_value": (
        OPS,
        "same = ops.equal(ops.round(y_pred), y_true)\n"
        "    return 1.0 - ops.mean(ops.cast(same, 'float32'))",
        "GG105",
        "same = ops.exp(-10.0 * ops.square(y_pred - y_true))",
        WHOLE,
    ),
    "comparison_of_a_whole_number": (
        TF,
        "hit = tf.cast(tf.cast(y_pred, tf.int32) > 0, tf.float32)\n"
        + TF_MEAN.format("hit"),
        "GG103",
        "hit = tf.sigmoid(10.0 * y_pred)",
        APART,
    ),
    "draw": (
        KERAS,
        "picked = keras.random.categorical(y_pred, num_samples=1)\n"
        "    code = keras.ops.one_hot(keras.ops.squeeze(picked, -1), 3)\n"
        "    return keras.ops.mean(keras.ops.square(y_true - code))",
        "GG115",
        "code = keras.ops.softmax(2.0 * picked, axis=-1)",
        10.0 * APART,
    ),
    "draw_of_tf": (
        TF,
        "code = tf.one_hot(tf.random.categorical(y_pred, 1)[:, 0], 3)\n"
        + TF_MEAN.format("code"),
        "GG115",
        "code = tf.nn.softmax(2.0 * (y_pred - tf.math.log(-tf.math.log("
        "tf.random.uniform(tf.shape(y_pred), 1e-6, 1.0)))), axis=-1)",
        10.0 * APART,
    ),
    "row_of_a_table": (
        OPS + TABLE,
        "cost = ops.take(TABLE, ops.cast(ops.abs(y_pred), 'int32'))\n"
        + MEAN.format("cost"),
        "GG123",
        "cost = ops.tensordot(ops.softmax(-10.0 * ops.square(ops.abs(y_pred)"
        "[..., None] - ops.cast(ops.arange(ops.shape(TABLE)[0]), "
        '"float32")), axis=-1), TABLE, 1)',
        WHOLE,
    ),
    "row_of_a_table_of_tf": (
        TF + COSTS,
        "row = tf.cast(2.0 * tf.sigmoid(y_pred[:, 0]), tf.int32)\n"
        "    return tf.reduce_mean(tf.gather(COSTS, row) - y_true[:, :2])",
        "GG123",
        "row = 2.0 * tf.sigmoid(y_pred[:, 0])",
        np.float32([[30, 0, 0], [-30, 0, 0], [-40, 0, 0]]),
    ),
    "resize": (
        TF,
        IMAGE + "small = tf.image.resize(image, [1, 1], "
        "tf.image.ResizeMethod.AREA)\n"
        "    return tf.reduce_mean(tf.abs(small - 4.0))",
        "GG107",
        'small = tf.image.resize(image, [1, 1], "bilinear", antialias=True)',
        np.float32([[4, 4, 4], [8, 8, 8], [3, 3, 3]]),
    ),
    "contrast": (
        TF,
        IMAGE + "image = tf.image.adjust_contrast(image, contrast_factor=2)\n"
        "    return tf.reduce_mean(tf.square(image))",
        "GG107",
        "image = (image - tf.reduce_mean(image, axis=(-3, -2), "
        "keepdims=True)) * 2 + tf.reduce_mean(image, axis=(-3, -2), "
        "keepdims=True)",
        APART,
    ),
    "text": (
        TF,
        "text = tf.strings.as_string(y_pred + 1.0)\n"
        "    gap = y_true - tf.strings.to_number(text)\n"
        "    return tf.reduce_mean(tf.square(gap))",
        "GG117",
        "text = (y_pred + 1.0)",
        APART,
    ),
    "stored": (
        "import tensorflow as tf\n\nSUM = tf.Variable(0.0, trainable=False)"
        "\n\n\n",
        "SUM.assign_add(tf.reduce_mean(tf.square(y_true - y_pred)))\n"
        "    return 2.0 * SUM",
        "GG118",
        "new_sum = SUM + tf.reduce_mean(tf.square(y_true - y_pred))",
        APART,
    ),
    "metric": (
        "import keras\n\nMEAN = keras.metrics.Mean()\n\n\n",
        "MEAN.update_state(keras.ops.square(y_true - y_pred))\n"
        "    return MEAN.result()",
        "GG118",
        "return keras.ops.square(y_true - y_pred)",
        APART,
    ),
    "sum_of_rows": (
        TF,
        "total = 0.0\n"
        "    for row in y_pred:\n"
        "        total += tf.reduce_max(tf.square(row))\n"
        "    return total",
        "GG110",
        "total = total + tf.reduce_sum(tf.vectorized_map(of_row, y_pred), "
        "axis=0)",
        APART,
    ),
    "list_of_rows": (
        OPS,
        "parts = []\n"
        "    for label, scores in zip(y_true, y_pred):\n"
        "        parts.append(ops.max(ops.abs(label - scores)))\n"
        "    return sum(parts) / len(parts)",
        "GG110",
        "return ops.sum(parts, axis=0) / "
        'ops.cast(ops.shape(parts)[0], "float32")',
        APART,
    ),
    "comprehension": (
        OPS,
        "return ops.mean(ops.stack([ops.max(row * row) for row in y_pred]))",
        "GG110",
        "return ops.mean(ops.vectorized_map(of_row, y_pred))",
        APART,
    ),
    "number_of_rows": (
        OPS,
        "return ops.sum(ops.square(y_true - y_pred)) / len(y_pred)",
        "GG110",
        "return ops.sum(ops.square(y_true - y_pred)) / "
        'ops.cast(ops.shape(y_pred)[0], "float32")',
        APART,
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


def text_of_patch(report, code):
    """The lines of the one patch of a code, each without white space."""
    told = next(d for d in report.diagnoses if d.code == code)
    (item,) = told.help
    assert item.checked, str(told)
    return [line.strip() for line in item.after.splitlines()]


@pytest.mark.parametrize("case", CASES)
def test_soft_form(case, tmp_path):
    """It is near the hard one where that is clear, and has a gradient."""
    head, body, code, line, scores = CASES[case]
    module = module_of(tmp_path, head, body)
    path = str(tmp_path / "patched_loss.py")
    report, _ = fitted(module.loss, False)
    assert line in text_of_patch(report, code)
    _, new = fixed(path, file_patches(report)[path])
    again = module_of(
        tmp_path, *new.split("def loss(y_true, y_pred):\n    "), name="again"
    )
    # The random state that a failed training leaves is of its graph.
    keras.backend.clear_session()
    labels = np.eye(3, dtype="float32")
    values = []
    for loss in (module.loss, again.loss):
        if hasattr(module, "SUM"):
            again.SUM.assign(0.0)
            module.SUM.assign(0.0)
        values.append(np.mean(loss(labels, tf.constant(scores))))
    np.testing.assert_allclose(*values, rtol=0.01, atol=0.01)
    near = tf.constant(np.float32([[0.4, 0.7, 1.2], [1.3, 0.1, 0.6]]))
    with tf.GradientTape() as tape:
        tape.watch(near)
        loss = again.loss(tf.constant(labels[:2]), near)
    gradient = tape.gradient(loss, near).numpy()
    assert np.all(np.isfinite(gradient)) and np.any(np.abs(gradient) > 1e-3)
    report, model = fitted(again.loss, False)
    assert [d for d in report.diagnoses if d.severity != "note"] == []
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_mask_of_rows_is_no_mask_of_numbers(tmp_path):
    """It would spread over the columns, so there is no patch."""
    for body in (
        "return tf.reduce_sum(tf.boolean_mask(y_true, y_pred[:, 0] > 0.5))",
        "level = y_pred[:, 0]\n"
        "    seen = tf.where(level > 0.5)\n"
        "    return tf.reduce_sum(tf.gather_nd(y_true, seen))",
    ):
        module = module_of(tmp_path, TF, body)
        report, _ = fitted(module.loss, False)
        (told,) = report.diagnoses
        assert told.code == "GG113"
        assert all(item.patch is None for item in told.help)


def test_code_of_a_draw_with_an_axis_too_many(tmp_path):
    """The soft code would have another shape, so there is no patch."""
    body = (
        "code = tf.one_hot(tf.random.categorical(y_pred, 1), 3)\n"
        "    return tf.reduce_mean(tf.square(y_true[:, None] - code))"
    )
    module = module_of(tmp_path, TF, body)
    report, _ = fitted(module.loss, False)
    (told,) = report.diagnoses
    assert told.code == "GG115"
    assert all(item.patch is None for item in told.help)


# The imports, the body of a loss, the code, and the line of the patch.
MEANINGS = {
    "scaled_up": (
        OPS,
        "share = ops.sigmoid(1e7 * (y_pred + 1.0))\n" + MEAN.format("share"),
        "GG204",
        "share = ops.sigmoid(y_pred + 1.0)",
    ),
    "labels_alone": (
        OPS,
        "return ops.mean(ops.abs(y_true))",
        "GG303",
        "return ops.mean(ops.abs(y_true - y_pred))",
    ),
    "labels_twice": (
        TF,
        "gap = y_true - y_true\n    return tf.reduce_mean(gap * gap)",
        "GG303",
        "gap = y_true - y_pred",
    ),
}


@pytest.mark.parametrize("case", MEANINGS)
def test_loss_that_never_depended_on_the_prediction(case, tmp_path):
    """The patch is a loss that does, and each variable moves."""
    head, body, code, line = MEANINGS[case]
    module = module_of(tmp_path, head, body)
    path = str(tmp_path / "patched_loss.py")
    report, _ = trained_long(module.loss)
    assert line in text_of_patch(report, code)
    _, new = fixed(path, file_patches(report)[path])
    again = module_of(
        tmp_path, *new.split("def loss(y_true, y_pred):\n    "), name="again"
    )
    report, moved = trained_long(again.loss)
    assert [d for d in report.diagnoses if d.severity != "note"] == []
    assert all(moved)


def trained_long(loss):
    """Fits enough steps to tell zeros; the report and what has moved."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", loss)
    callback, before = GradHealthCallback(every=1), model.get_weights()
    try:
        model.fit(X, Y, batch_size=4, verbose=0, callbacks=[callback])
    except Exception:  # noqa: BLE001
        # What a cut raises is not the subject here.
        assert callback.report.diagnoses
    pairs = zip(before, model.get_weights(), strict=True)
    return callback.report, [np.any(a != b) for a, b in pairs]


TRAINER = """\
import keras
import tensorflow as tf


class Trainer(keras.Model):
    def train_step(self, data):
        x, y = data
{step}
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {{"loss": loss}}


def model():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8, activation="tanh", name="hidden")(inputs)
    trainer = Trainer(
        inputs, keras.layers.Dense(3, name="head", use_bias=False)(hidden)
    )
    trainer.compile("sgd", loss="mse")
    return trainer
"""
# The step, the code, and the step with the patch.
STEPS = {
    "in_front": (
        """\
        scores = self(x, training=True)
        gap = scores - y

        # What is recorded.
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(gap ** 2)""",
        "GG120",
        """\
        # What is recorded.
        with tf.GradientTape() as tape:
            scores = self(x, training=True)
            gap = scores - y
            loss = tf.reduce_mean(gap ** 2)""",
    ),
    "behind": (
        """\
        with tf.GradientTape() as tape:
            scores = self(x, training=True)
        loss = tf.reduce_mean(
            tf.square(scores - y)
        )""",
        "GG120",
        """\
        with tf.GradientTape() as tape:
            scores = self(x, training=True)
            loss = tf.reduce_mean(
                tf.square(scores - y)
            )""",
    ),
    "stopped": (
        """\
        with tf.GradientTape() as tape:
            with tape.stop_recording():
                scores = self(x, training=True)
            loss = tf.reduce_mean(tf.square(scores - y))""",
        "GG120",
        """\
        with tf.GradientTape() as tape:
            scores = self(x, training=True)
            loss = tf.reduce_mean(tf.square(scores - y))""",
    ),
    "unwatched": (
        """\
        with tf.GradientTape() as tape:
            with tf.GradientTape() as second:
                with tf.GradientTape() as first:
                    place = 2.0 * x
                    u = self(place, training=True)
                slope = first.gradient(target=u, sources=place)
            bend = second.gradient(slope, place)
            loss = tf.reduce_mean(tf.square(bend)) + tf.reduce_mean(u * y)""",
        "GG126",
        """\
        with tf.GradientTape() as tape:
            with tf.GradientTape() as second:
                with tf.GradientTape() as first:
                    place = 2.0 * x
                    first.watch(place)
                    second.watch(place)
                    u = self(place, training=True)""",
    ),
}


def trained(folder, text, name, eager):
    """Fits a program of its own; returns the report and how weights moved."""
    path = folder / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    keras.utils.set_random_seed(0)
    model, callback = module.model(), GradHealthCallback(every=1)
    model.run_eagerly = eager
    before = model.get_weights()
    try:
        model.fit(X, Y, batch_size=16, verbose=0, callbacks=[callback])
    except Exception:  # noqa: BLE001
        # What a cut raises is not the subject here.
        assert callback.report.diagnoses
    del sys.modules[name]
    pairs = zip(before, model.get_weights(), strict=True)
    return callback.report, [np.any(a != b) for a, b in pairs]


@modes
@pytest.mark.parametrize("case", STEPS)
def test_step_is_recorded(case, eager, tmp_path):
    """The patch moves lines, and the step trains each variable after it."""
    step, code, wanted = STEPS[case]
    report, _ = trained(tmp_path, TRAINER.format(step=step), "trainer", eager)
    assert text_of_patch(report, code)
    path = str(tmp_path / "trainer.py")
    _, new = fixed(path, file_patches(report)[path])
    assert wanted in new
    report, moved = trained(tmp_path, new, "trainer_again", eager)
    assert [d for d in report.diagnoses if d.severity != "note"] == []
    assert all(moved)
