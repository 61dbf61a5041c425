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


_MEAN_OF = "return ops.mean(ops.square(y_true - {}))"
_SHARES = "y_pred = ops.softmax(y_pred)\nlabels = ops.argmax(y_true, axis=-1)\n"
_STEEP = (
    "x = keras.layers.Dense(8, activation='{}', name='hidden')(x)\n"
    "x = keras.layers.Dense(3, name='head')(x)\n"
    "optimizer = keras.optimizers.Adam({})"
)
_PLATEAU = """

def run(model, x, y):
    plateau = keras.callbacks.ReduceLROnPlateau("accuracy", mode="min")
    plateau.factor, plateau.patience = 0.001, 1
    fit = getattr(model.fit, "func", model.fit)
    callbacks = getattr(model.fit, "keywords", {}).get("callbacks", [])
    fit(x, y, epochs=20, verbose=0, callbacks=[plateau, *callbacks])
"""
_UNFREEZE = """

class Unfreeze(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            self.model.get_layer("hidden").trainable = True


def run(model, x, y):
    layer, guarded = model.get_layer("hidden"), model.fit

    def fit(x, y, callbacks=()):
        known = getattr(guarded, "keywords", {}).get("callbacks", [])
        guarded(x, y, callbacks=[*known, *callbacks])

    layer.trainable = False
    model.compile("sgd", loss="mse")
    model.fit = fit
    model.fit(x, y, callbacks=[Unfreeze()])
"""
_INVERSE = """\
class Inverse(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, first):
        self.first = first

    def __call__(self, step):
        step = ops.cast(step, "float32")
        return self.first / step

"""
_HALF = "y_pred = ops.cast(y_pred, 'float16')\n"
_SAME = "y_true = 0.0 * y_pred + 0.5\n"


def _angles(name, half):
    """A loss whose values reach both ends of an inverse function."""
    kind = "float16" if half else "float32"
    return _loss(
        f"cosine = ops.cast(ops.tanh(100.0 * y_pred), '{kind}')\n"
        f"angle = ops.{name}(cosine)\n"
        "return ops.mean(ops.cast(ops.square(angle), 'float32'))"
    )


def _square_root(start, end="far", half=False):
    """A loss with a root of zero, perhaps in half precision."""
    kind = "float16" if half else "float32"
    return _loss(
        f"scores = gap = ops.cast(y_pred - y_pred[:1], '{kind}')\n"
        "square = ops.sum(ops.square(gap), axis=-1, keepdims=True)\n"
        f"{start}\n"
        f"rest = ops.cast({end}, 'float32') * (y_true[:, 0] + 1.0)\n"
        "return ops.mean(rest) + ops.mean(ops.square(y_true - y_pred))"
    )


def _step(*lines):
    """A model with a training step of its own."""
    body = "".join(f"        {line}\n" for line in lines)
    return (
        "import keras\nimport tensorflow as tf\n\n\n"
        "class Trainer(keras.Model):\n"
        "    def train_step(self, data):\n        x, y = data\n"
        f"{body}"
        "        gradients = tape.gradient(loss, self.trainable_variables)\n"
        "        self.optimizer.apply(gradients, self.trainable_variables)\n"
        "        self.metrics[0].update_state(loss)\n"
        '        return {"loss": self.metrics[0].result()}\n\n\n'
        "def model():\n"
        "    inputs = keras.Input((4,))\n"
        '    hidden = keras.layers.Dense(8, name="hidden")(inputs)\n'
        '    outputs = keras.layers.Dense(3, name="head")(hidden)\n'
        "    trainer = Trainer(inputs, outputs)\n"
        '    trainer.compile("adam", loss="mse")\n'
        "    return trainer\n"
    )


def _two_networks(weights, update):
    """A step of its own for a model of two networks, one of them a copy."""
    return (
        "import keras\nimport tensorflow as tf\n\n\n"
        "class Pair(keras.Model):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.stem = keras.layers.Dense(8, name='stem')\n"
        "        self.online = keras.layers.Dense(3, name='online')\n"
        "        self.target = keras.layers.Dense(3, name='target')\n"
        "        self.target.trainable = False\n\n"
        "    def call(self, x):\n"
        "        x = self.stem(x)\n"
        "        return self.online(x) + 0.1 * self.target(x)\n\n"
        "    def train_step(self, data):\n"
        "        x, y = data\n"
        "        with tf.GradientTape() as tape:\n"
        "            loss = tf.reduce_mean((self(x) - y) ** 2)\n"
        f"{weights}"
        "        self.metrics[0].update_state(loss)\n"
        '        return {"loss": self.metrics[0].result()}\n\n\n'
        "def model():\n"
        "    pair = Pair()\n"
        "    pair.build((None, 4))\n"
        f"    {update}\n"
        '    pair.compile("sgd", loss="mse")\n'
        "    return pair\n\n\n"
        "EPOCHS = 8\n"
    )


_FIT = "\n\ndef run(model, x, y):\n    {}\n"

# Code and numbers of the remedies, counted in the rule's `help`, to program.
PAGES = {
    ("GG102", 0): _loss(
        'hard = ops.cast(y_pred > 0.5, "float32")\n' + _MEAN_OF.format("hard")
    ),
    ("GG102", 1): _loss(
        'low = ops.cast(y_pred < 0.5, "float32")\n' + _MEAN_OF.format("low")
    ),
    ("GG102", 2, 3): _layer('gate = ops.cast(x > 0.0, "float32")\nx = gate'),
    ("GG102", 4): _loss(
        'hit = ops.cast(ops.equal(y_true, y_pred), "float32")\n'
        "return 1.0 - ops.mean(hit)"
    ),
    ("GG102", 5): _loss(
        'miss = ops.cast(ops.not_equal(y_true, y_pred), "float32")\n'
        "return ops.mean(miss)"
    ),
    ("GG102", 6): _loss(
        _SHARES + 'hit = ops.cast(ops.in_top_k(labels, y_pred, 2), "float32")\n'
        "miss = 1.0 - hit\nreturn ops.mean(miss)"
    ),
    ("GG103", 0, 1): _loss(
        'level = ops.cast(y_pred, "int32")\n'
        'return ops.mean(ops.square(y_true - ops.cast(level, "float32")))'
    ),
    ("GG103", 2): _loss(
        'used = ops.cast(ops.cast(y_pred, "bool"), "float32")\n'
        + _MEAN_OF.format("used")
    ),
    ("GG104", 0, 3): _layer(
        "code = ops.one_hot(ops.argmax(x, axis=-1), 8)\nx = code"
    ),
    ("GG104", 1): _loss(
        _SHARES + "miss = ops.not_equal(ops.argmax(y_pred, axis=-1), labels)\n"
        'return ops.mean(ops.cast(miss, "float32"))'
    ),
    ("GG104", 2): _loss(
        "index = ops.argmax(y_pred, axis=-1)\n"
        'return ops.mean(ops.square(ops.cast(index, "float32") - 2.0))'
    ),
    ("GG104", 4): _loss(
        "index = ops.argmin(y_pred, axis=-1)\n"
        'return ops.mean(ops.square(ops.cast(index, "float32") - 2.0))'
    ),
    ("GG104", 5): _loss(
        "image = ops.reshape(y_pred, (1, 4, 4, 3))\n"
        '_, best = tf.nn.max_pool_with_argmax(image, 2, 2, "VALID")\n'
        'return ops.mean(ops.cast(best, "float32"))'
    ),
    ("GG105", 2, 3): _loss(
        "level = ops.floor(y_pred)\n" + _MEAN_OF.format("level")
    ),
    ("GG105", 4, 5): _loss(
        "level = ops.ceil(y_pred)\n" + _MEAN_OF.format("level")
    ),
    ("GG105", 6): _loss("level = y_pred // 0.5\n" + _MEAN_OF.format("level")),
    ("GG106", 0): _LOSS.format(
        extra="def cell(x, state):\n    return 0.5 * state + x\n\n\n"
        "@tf.function",
        body=_indented(
            "x = y_pred\nstate = 0.0 * y_pred\n"
            "for step in tf.range(3):\n"
            "    state = ops.stop_gradient(cell(x, state))\n"
            + _MEAN_OF.format("state")
        ),
    ),
    ("GG106", 2): _loss(
        "x = y_pred\n"
        "error = ops.stop_gradient(online(x)) - target(x)\n"
        "return ops.mean(ops.square(error))",
        "def online(x):\n    return 2.0 * x\n\n\n"
        "def target(x):\n    return ops.zeros_like(x)\n\n",
    ),
    ("GG106", 3): _layer(
        "encoder = ops.tanh\nx = ops.stop_gradient(encoder(x))"
    ),
    ("GG107", 0): _loss(
        "image = (y_true - y_pred)[:, None, :, None]\nsize = (1, 2)\n"
        'small = tf.image.resize(image, size, method="area")\n'
        "return ops.mean(ops.square(small))"
    ),
    ("GG107", 1): _loss(
        "image = ops.reshape(y_pred, (1, 4, 4, 3))\nfactor = 0.5\n"
        "image = tf.image.adjust_contrast(image, factor)\n"
        "return ops.mean(ops.square(image))"
    ),
    ("GG107", 2): _loss(
        "image = ops.reshape(y_pred, (1, 4, 4, 3))\nfactor = 0.5\n"
        "image = tf.image.adjust_saturation(image, factor)\n"
        "return ops.mean(ops.square(image))"
    ),
    ("GG107", 4): _loss(
        "gaps = ops.square(y_pred) + ops.cast([1.0, 3.0, 5.0], 'float32')\n"
        "matrix = tf.linalg.diag(tf.cast(gaps, tf.complex64))\n"
        "result = tf.linalg.logm(matrix)\n"
        "return ops.mean(tf.math.real(result))"
    ),
    ("GG107", 5): _loss(
        "rate = ops.exp(y_pred)\ndrawn = tf.random.poisson([], rate)\n"
        + _MEAN_OF.format("drawn")
    ),
    ("GG108", 1): _loss("y_pred[:, 0] = 0.0\n" + _MEAN_OF.format("y_pred")),
    ("GG108", 2): _loss(
        "error = ops.mean(ops.square(y_true - y_pred))\n"
        "print(float(error))\nreturn error"
    ),
    ("GG108", 3): _loss(
        "scale = float(ops.max(y_pred))\n" + _MEAN_OF.format("y_pred * scale")
    ),
    ("GG109", 0): _loss(
        "error = ops.mean(ops.square(y_true - y_pred))\n"
        "error = max(error, 0.1)\nreturn error"
    ),
    ("GG109", 1): _loss(
        "error = ops.square(y_true - y_pred)\n"
        "while ops.max(error) > 0.1:\n    error = 0.5 * error\n"
        "return ops.mean(error)"
    ),
    ("GG110", 0): _loss(
        "count = len(y_pred)\n"
        "return ops.sum(ops.square(y_true - y_pred)) / count"
    ),
    ("GG110", 1): _loss(
        "total = 0.0\nfor row in y_pred:\n"
        "    total += ops.max(ops.square(row))\nreturn total"
    ),
    ("GG110", 2): _loss(
        "rows = [function(row) for row in y_pred]\n"
        "return ops.mean(ops.convert_to_tensor(rows))",
        "def function(row):\n    return ops.sum(ops.square(row))\n\n",
    ),
    ("GG111", 0): _loss(
        "_, best = ops.top_k(y_pred, k=2)\n"
        'return ops.mean(ops.square(ops.cast(best, "float32")))'
    ),
    ("GG111", 1): _loss(
        "rank = ops.argsort(ops.argsort(y_pred))\n"
        'return ops.mean(ops.square(y_true - ops.cast(rank, "float32")))'
    ),
    ("GG111", 2): _loss(
        "order = ops.argsort(y_pred)\n"
        'return ops.mean(ops.square(y_true - ops.cast(order, "float32")))'
    ),
    ("GG111", 3): _loss(
        "best = ops.top_k(y_pred, k=1)[1]\n"
        "picked = ops.take_along_axis(y_true, best, axis=-1)\n"
        "return -ops.mean(picked)"
    ),
    ("GG112", 0): _loss(
        'label = ops.one_hot(ops.cast(y_pred[:, 0], "int32"), 3)\n'
        + _MEAN_OF.format("label")
    ),
    ("GG112", 1): _loss(
        "level = ops.sum(ops.square(y_pred), axis=-1)\n"
        'label = ops.one_hot(ops.cast(level, "int32"), 3)\n'
        + _MEAN_OF.format("label")
    ),
    ("GG113", 0, 1): _loss(
        "cost = 1.0 - y_true\npicked = cost[y_pred > 0.5]\n"
        "return ops.sum(picked)"
    ),
    ("GG113", 2): _loss(
        "found = tf.where(y_pred > 0.5)\n"
        "return tf.reduce_sum(1.0 - tf.gather_nd(y_true, found))"
    ),
    ("GG113", 3): _loss(
        "rows = ops.nonzero(y_pred[:, 0] > 0.5)[0]\n"
        "return ops.sum(1.0 - ops.take(y_true[:, 0], rows, axis=0))"
    ),
    ("GG114", 0): _loss(
        "counts = tf.histogram_fixed_width(y_pred, [0.0, 1.0], 5)\n"
        'return ops.mean(ops.square(ops.cast(counts, "float32") - 3.0))'
    ),
    ("GG114", 1): _loss(
        "bins = 4.0 * ops.sigmoid(y_pred[:, 0])\n"
        "counts = ops.bincount(bins, minlength=5)\n"
        'return ops.mean(ops.square(ops.cast(counts, "float32") - 3.0))'
    ),
    ("GG114", 2): _loss(
        "count = ops.count_nonzero(y_pred)\n"
        'return ops.square(ops.cast(count, "float32") - 9.0)'
    ),
    ("GG114", 3): _loss(
        "count = ops.shape(tf.where(y_pred > 0.5))[0]\n"
        'return ops.square(ops.cast(count, "float32") - 9.0)'
    ),
    ("GG114", 4): _loss(
        "edges = ops.linspace(-1.0, 1.0, 5)\n"
        "bins = ops.searchsorted(edges, y_pred[:, 0])\n"
        'return ops.mean(ops.square(ops.cast(bins, "float32") - 9.0))'
    ),
    ("GG114", 5): _loss(
        "labels = tf.argmax(y_true, axis=-1)\n"
        "classes = 2.0 * tf.sigmoid(y_pred[:, 0])\n"
        "table = tf.math.confusion_matrix(labels, classes, 3)\n"
        "return -tf.cast(table[0, 0], tf.float32)"
    ),
    ("GG115", 0): _loss(
        "drawn = ops.one_hot(keras.random.categorical(y_pred, 1)[:, 0], 3)\n"
        + _MEAN_OF.format("drawn")
    ),
    ("GG115", 1): _loss(
        "shape, counts = ops.shape(y_pred), 5.0\nshare = ops.sigmoid(y_pred)\n"
        "drawn = keras.random.binomial(shape, counts, share)\n"
        + _MEAN_OF.format("drawn")
    ),
    ("GG115", 2): _loss(
        "mixed = tf.random.shuffle(y_pred)\n" + _MEAN_OF.format("mixed")
    ),
    ("GG115", 3): _loss(
        "shape, seed, rate = ops.shape(y_pred), [1, 2], ops.exp(y_pred)\n"
        "drawn = tf.random.stateless_poisson(\n"
        "    shape, seed, rate, rate.dtype\n)\n" + _MEAN_OF.format("drawn")
    ),
    ("GG116", 0, 1): _loss(
        "gap = y_true - y_pred\n"
        "error = tf.numpy_function(np.square, [gap], tf.float32)\n"
        "return ops.mean(error)"
    ),
    ("GG116", 2): _loss(
        "error = tf.py_function(squared, [y_true - y_pred], tf.float32)\n"
        "error.set_shape(y_pred.shape)\n"
        "return ops.mean(error)",
        "def squared(gap):\n    return np.square(gap.numpy())\n\n",
    ),
    ("GG117", 0): _loss(
        "text = tf.strings.as_string(y_pred, precision=2)\n"
        "scores = tf.strings.to_number(text)\n" + _MEAN_OF.format("scores")
    ),
    ("GG118", 0): _loss(
        "error = ops.mean(ops.square(y_true - y_pred))\n"
        "MEAN.update_state(error)\nreturn MEAN.result()",
        "MEAN = keras.metrics.Mean()\n\n",
    ),
    ("GG118", 1): _loss(
        "TABLE[:, 0].assign(y_pred[:, 0])\ntable = TABLE\n"
        + _MEAN_OF.format("table"),
        "TABLE = tf.Variable(tf.zeros((16, 3)), trainable=False)\n\n",
    ),
    ("GG118", 2): _loss(
        "error = ops.mean(ops.square(y_true - y_pred))\n"
        "AVERAGE.assign(error)\nreturn AVERAGE.value()",
        "AVERAGE = tf.Variable(0.0, trainable=False)\n\n",
    ),
    ("GG119", 0): _loss(
        "one, two = ops.mean(y_pred), ops.max(y_pred)\n"
        "pair = ops.convert_to_tensor([float(one), float(two)])\n"
        "return ops.mean(ops.square(pair))",
        "EAGER = True\n\n",
    ),
    ("GG119", 1): _loss(
        "scores = ops.convert_to_tensor(y_pred.numpy())\n"
        + _MEAN_OF.format("scores"),
        "EAGER = True\n\n",
    ),
    ("GG120", 0): _step(
        "y_pred = self(x, training=True)",
        "with tf.GradientTape() as tape:",
        "    loss = self.compute_loss(x=x, y=y, y_pred=y_pred)",
    ),
    ("GG120", 1): _step(
        "with tf.GradientTape() as tape:",
        "    with tape.stop_recording():",
        "        y_pred = self(x, training=True)",
        "    loss = self.compute_loss(x=x, y=y, y_pred=y_pred)",
    ),
    ("GG123", 0, 1): _loss(
        "level = 3.0 * ops.sigmoid(y_pred[:, 0])\n"
        'row = ops.take(TABLE, ops.cast(level, "int32"), axis=0)\n'
        "return ops.mean(ops.square(row - y_true[:, :1]))",
        "TABLE = tf.constant([[1.0], [2.0], [4.0], [8.0]])\n\n",
    ),
    ("GG124", 0): _loss(
        "corners = ops.sigmoid(ops.concatenate([y_pred, y_pred[:, :1]], -1))\n"
        "scores = y_pred[:, 0]\n"
        "kept = tf.image.non_max_suppression(corners, scores, 5)\n"
        'error = tf.reduce_mean(tf.cast(kept, "float32"))\nreturn error'
    ),
    ("GG124", 1): _loss(
        "scores = y_pred[:, None]\nlengths = [16]\n"
        "labels, label_lengths = tf.constant([[0, 1]]), tf.constant([2])\n"
        "decoded, _ = tf.nn.ctc_greedy_decoder(scores, lengths)\n"
        "guess = tf.sparse.to_dense(decoded[0])\n"
        'error = tf.reduce_mean(tf.cast(guess, "float32"))\nreturn error'
    ),
    ("GG125", 0): _loss(
        "bins = ops.cast(ops.argmax(y_true, axis=-1), 'int32')\n"
        "scores = y_pred[:, 0]\n"
        "total = ops.bincount(bins, weights=scores, minlength=3)\n"
        "return ops.mean(ops.square(total - 1.0))"
    ),
    ("GG201", 0): _network(
        _STEEP.format("relu", "1.0"),
        "def inputs(x):\n    return abs(x)\n\n\n"
        "def targets(y):\n    return 0.0 * y - 5.0\n",
        "optimizer, loss='mse'",
        epochs=30,
    ),
    ("GG201", 1): _network(
        _STEEP.format("relu", "0.01").replace("Adam", "SGD"),
        "def inputs(x):\n    return 300.0 + 100.0 * x\n\n\n"
        "def targets(y):\n    return 0.0 * y - 5.0\n",
        "optimizer, loss='mse'",
        epochs=20,
    )
    + _FIT.format("model.fit(x, y)"),
    ("GG201", 2): _network(
        "x = keras.layers.Dense(\n"
        "    8, 'relu', name='hidden',\n"
        "    bias_initializer=keras.initializers.Constant(-10.0)\n"
        ")(x)\nx = keras.layers.Dense(3, name='head')(x)"
    ),
    ("GG201", 4): _loss(
        "gap = y_pred - y_true - 9.0\n"
        "return 1.0 - ops.mean(ops.maximum(gap, 0.0))",
        "EPOCHS = 8\n",
    ),
    ("GG203", 0): _network(
        "x = keras.layers.Dense(8, name='hidden')(x)\n"
        "x = keras.layers.Dense(\n"
        "    1, name='head',\n"
        "    bias_initializer=keras.initializers.Constant(-10.0)\n"
        ")(x)",
        "def targets(y):\n    return 1.0 + 0.0 * y[:, :1]\n",
        "'sgd', loss=keras.losses.BinaryCrossentropy()",
    ),
    ("GG203", 3): _loss(
        "degrees = ops.clip(y_pred, 36.0, 42.0)\n"
        "return ops.mean(ops.square(y_true - degrees))",
        "EPOCHS = 8\n\n\ndef targets(y):\n    return 36.0 + 6.0 * y\n\n",
    ),
    ("GG203", 4): _loss(
        "level = ops.maximum(y_pred, 5.0)\n" + _MEAN_OF.format("level"),
        "EPOCHS = 8\n\n\ndef targets(y):\n    return 6.0 + y\n\n",
    ),
    ("GG203", 5): _loss(
        "level = ops.minimum(y_pred, -5.0)\n" + _MEAN_OF.format("level"),
        "EPOCHS = 8\n\n\ndef targets(y):\n    return -6.0 - y\n\n",
    ),
    ("GG203", 6): _network(
        "x = keras.layers.Dense(\n"
        "    8, activation=\"relu6\", name='hidden',\n"
        "    bias_initializer=keras.initializers.Constant(20.0)\n"
        ")(x)\nx = keras.layers.Dense(3, name='head')(x)",
        compiled="keras.optimizers.SGD(1e-4), loss='mse'",
    ),
    ("GG204", 1): _loss(
        "y_pred = y_pred + 200.0\nshare = ops.sigmoid(y_pred)\n"
        + _MEAN_OF.format("share"),
        "EPOCHS = 8\n",
    ),
    ("GG204", 2): _loss(
        "y_pred = y_pred + ops.convert_to_tensor([200.0, 0.0, 0.0])\n"
        "share = ops.softmax(y_pred)\n" + _MEAN_OF.format("share"),
        "EPOCHS = 8\n",
    ),
    ("GG204", 3): _network(
        _STEEP.format("tanh", "100.0"),
        compiled="optimizer, loss='mse'",
        epochs=12,
    ),
    ("GG204", 4): _network(
        'x = keras.layers.Dense(8, activation="tanh")(x)\n'
        "x = keras.layers.Dense(3, name='head')(x)",
        "def inputs(x):\n    return 1e6 * x\n",
    ),
    ("GG213", 0): _network(
        'x = keras.layers.Dense(3, activation="tanh", name="head")(x)',
        compiled="'sgd', loss='binary_crossentropy'",
    ),
    ("GG213", 1): _network(
        'x = keras.layers.Dense(3, activation="tanh", name="head")(x)',
        compiled="'sgd', loss='categorical_crossentropy'",
    ),
    ("GG213", 3): _network(
        'x = keras.layers.Dense(3, name="head")(x)',
        compiled="'sgd', loss=keras.losses.CategoricalCrossentropy()",
    ),
    ("GG213", 4): _network(
        'x = keras.layers.Dense(3, name="head")(x)',
        compiled="'sgd', loss=\"binary_crossentropy\"",
    ),
    ("GG213", 5): _network(
        'x = keras.layers.Dense(3, name="head")(x)',
        compiled="'sgd', loss=\"categorical_crossentropy\"",
    ),
    ("GG205", 2): _network(
        "x = keras.layers.Dense(8, name='hidden')(x)\n"
        'x = keras.layers.Dense(1, activation="softmax")(x)'
    ),
    ("GG205", 3): _loss(
        "share = ops.softmax(y_pred[..., None])\n"
        + _MEAN_OF.format("share[..., 0]"),
        "EPOCHS = 8\n",
    ),
    ("GG206", 0): _loss(
        'mask = ops.cast(ops.equal(y_true, PADDING), "float32")\n'
        "error = mask * ops.square(y_true - y_pred)\nreturn ops.mean(error)",
        "PADDING = -1.0\nEPOCHS = 8\n\n",
    ),
    ("GG208", 0): _network(
        "x = keras.layers.Dense(8, name='hidden')(x)\n"
        "x = keras.layers.Dense(8, name='low', use_bias=False,\n"
        '    kernel_initializer="zeros")(x)\n'
        "x = keras.layers.Dense(3, name='head', use_bias=False,\n"
        '    kernel_initializer="zeros")(x)'
    ),
    ("GG209", 1): _loss(
        "total = ops.sum(ops.softmax(y_pred), axis=-1)\n"
        "return ops.mean(-ops.log(total))",
        "EPOCHS = 8\n",
    ),
    ("GG215", 1): _network(
        "x = keras.layers.Dense(1, 'sigmoid', name='head')(x)",
        "def targets(y):\n    return y[:, :1]\n",
        "'sgd', loss=\"categorical_crossentropy\"",
    ),
    ("GG216", 1): _network(
        "x = keras.layers.Dense(3, activation=\"relu\", name='head')(x)",
        "def targets(y):\n    return -1.0 - abs(y)\n",
        "'sgd', loss='mse'",
    ),
    ("GG221", 0): _network(
        "x = keras.layers.Dense(3, name='head')(x)",
        "def targets(y):\n    y[2, 0] = np.nan\n    return y\n",
        epochs=1,
    )
    + _FIT.format("model.fit(x, y)"),
    # Images: the rows are not those of a matrix.
    ("GG221", 0, 1): _network(
        "inputs = x = keras.Input((2, 2, 1))\n"
        "x = keras.layers.Flatten()(x)\n"
        "x = keras.layers.Dense(3, name='head')(x)",
        "def inputs(x):\n"
        "    x[3, 1] = np.nan\n"
        "    return x.reshape((-1, 2, 2, 1))\n",
        epochs=1,
    )
    + _FIT.format("model.fit(x, y)"),
    ("GG221", 2): _network(
        "x = keras.layers.Dense(3, name='head')(x)", epochs=1
    )
    + "\n\ndef run(model, x, y):\n"
    "    weight = np.array([np.nan] + 15 * [1.0], 'float32')\n"
    "    model.fit(x, y, sample_weight=weight)\n",
    ("GG223", 0): _loss(
        "y_pred = 300.0 * y_pred\nscore = ops.log(ops.softmax(y_pred))\n"
        "return -ops.mean(score)"
    ),
    ("GG223", 1): _loss(
        "y_pred = 300.0 * y_pred\nscore = ops.log(ops.sigmoid(y_pred))\n"
        "return -ops.mean(score)"
    ),
    ("GG223", 3): _loss(
        "part = ops.sum(y_true * ops.relu(y_pred - 9.0), axis=-1)\n"
        "total = ops.sum(y_true + ops.square(y_pred), axis=-1)\n"
        "share = ops.log(part / total)\n"
        "return -ops.mean(share)"
    ),
    ("GG223", 4): _loss(
        "sigma = y_pred\nscore = ops.log(sigma)\n" + _MEAN_OF.format("score")
    ),
    ("GG223", 5): _loss(
        "share = ops.cast(ops.relu(y_pred), 'float16')\n"
        "score = ops.log(share)\n"
        "return ops.mean(ops.square(ops.cast(score, 'float32')))"
    ),
    ("GG223", 6): _loss(
        "share = ops.relu(y_pred)\nscore = ops.log(share)\n"
        + _MEAN_OF.format("score")
    ),
    ("GG223", 7): _loss(
        "gap = 2.0 * y_pred - 1.0\nscore = ops.log1p(gap)\n"
        + _MEAN_OF.format("score")
    ),
    ("GG223", 8): _loss(
        "share = ops.relu(y_pred)\ny_true = y_true + 0.1\n"
        "gain = tf.math.xlogy(y_true, share)\n"
        "return ops.mean(ops.square(gain))"
    ),
    ("GG224", 0, 2): _loss(
        "gap = y_true - y_pred\nerror = gap / y_true\n"
        "return ops.mean(ops.square(error))"
    ),
    ("GG224", 1): _loss(
        "factor = ops.reciprocal(y_true)\n"
        "return ops.mean(ops.square(factor * y_pred))"
    ),
    ("GG224", 3): _loss(
        "gap = y_pred\nrest = gap % y_true\nreturn ops.mean(ops.square(rest))"
    ),
    ("GG225", 0): _loss(
        "margin = 1000.0 * y_pred\ncost = ops.log(1.0 + ops.exp(margin))\n"
        "return ops.mean(cost)"
    ),
    ("GG225", 1): _loss(
        "scores = 1000.0 * y_pred\n"
        "cost = ops.log(ops.sum(ops.exp(scores), axis=-1))\n"
        "return ops.mean(cost)"
    ),
    ("GG225", 2): _loss(
        "scores = 1000.0 + 10.0 * y_pred\n"
        "share = ops.exp(scores) / "
        "ops.sum(ops.exp(scores), axis=-1, keepdims=True)\n"
        + _MEAN_OF.format("share")
    ),
    ("GG225", 3): _loss(
        "exponent = 100.0 + y_pred * y_pred[::-1]\n"
        "exponent = ops.concatenate([exponent, y_pred], axis=-1)\n"
        "scale = ops.exp(exponent)\nreturn ops.mean(scale)"
    ),
    ("GG225", 4): _loss(
        "gap = ops.cast(1000.0 * y_pred, 'float16')\n"
        "error = ops.square(gap)\n"
        "return ops.mean(ops.cast(error, 'float32'))"
    ),
    ("GG225", 5): _network(
        "x = keras.layers.Dense(3, name='head')(x)\n"
        "optimizer = keras.optimizers.SGD(10.0)",
        compiled="optimizer, loss='mse'",
        epochs=30,
    ),
    ("GG225", 6): _network(
        "x = keras.layers.Dense(3, name='head')(x)",
        "def inputs(x):\n    return 1e15 * x\n\n\n"
        "def targets(y):\n    return 1e15 * y\n",
        epochs=8,
    )
    + _FIT.format("model.fit(x, y)"),
    ("GG226", 0): _square_root(
        "far = ops.sqrt(ops.sum(ops.square(gap), axis=-1))", half=True
    ),
    ("GG226", 1, 2): _square_root(
        "far = ops.sqrt(ops.sum(ops.square(gap), axis=-1))"
    ),
    ("GG226", 3): _loss(
        "value = y_pred\nroot = ops.sqrt(value)\n" + _MEAN_OF.format("root")
    ),
    ("GG226", 4): _square_root(
        "spread = ops.std(scores, axis=-1)", "spread", half=True
    ),
    ("GG226", 5): _square_root("spread = ops.std(scores, axis=-1)", "spread"),
    ("GG226", 6): _square_root(
        "unit = scores * ops.rsqrt(square)", "unit[:, 0]", half=True
    ),
    ("GG226", 7): _square_root(
        "unit = scores * ops.rsqrt(square)", "unit[:, 0]"
    ),
    ("GG227", 2): _loss(
        "share = ops.relu(y_pred)\n"
        "part = ops.where(share > 0, share * ops.log(share), 0.0)\n"
        + _MEAN_OF.format("part")
    ),
    ("GG228", 0): _loss(
        "error = y_true - y_pred\ncost = error**1.5\nreturn ops.mean(cost)"
    ),
    ("GG228", 1): _loss(
        "size = ops.relu(y_pred)\ncost = size**0.5\nreturn ops.mean(cost)"
    ),
    ("GG229", 0): _angles("arccos", half=True),
    ("GG229", 1): _angles("arccos", half=False),
    ("GG229", 2): _angles("arcsin", half=True),
    ("GG229", 3): _angles("arcsin", half=False),
    ("GG229", 4): _angles("arctanh", half=True),
    ("GG229", 5): _angles("arctanh", half=False),
    ("GG229", 6): _loss(
        "ratio = 1.0 + ops.relu(y_pred)\nangle = ops.arccosh(ratio)\n"
        + _MEAN_OF.format("angle")
    ),
    ("GG229", 7): _loss(
        "up, right = ops.relu(y_pred), ops.relu(y_pred[:, ::-1])\n"
        "angle = ops.arctan2(up, right)\n" + _MEAN_OF.format("angle")
    ),
    ("GG229", 8): _loss(
        "angle, cosine = 1.0, ops.tanh(100.0 * y_pred)\n"
        "error = ops.abs(angle - ops.arccos(cosine))\nreturn ops.mean(error)"
    ),
    ("GG230", 0): _loss(
        "share = y_pred\nscore = tf.math.ndtri(share)\n"
        + _MEAN_OF.format("score")
    ),
    ("GG230", 1): _loss(
        "number = tf.complex(ops.relu(y_pred), 0.0 * y_pred)\n"
        "phase = ops.angle(number)\n" + _MEAN_OF.format("phase + y_pred")
    ),
    ("GG231", 1): _network(
        "for n in range(5):\n"
        "    x = keras.layers.Dense(\n"
        "        8, 'relu', name=f'deep_{n}',\n"
        "        kernel_initializer=keras.initializers.RandomNormal()\n"
        "    )(x)\n"
        "x = keras.layers.Dense(3, name='head')(x)",
        compiled="'adam', loss='mse'",
    ),
    ("GG231", 2): _network(
        "x = keras.layers.Dense(8, name='hidden')(x)\n"
        "for block in blocks():\n"
        "    x = block(x)\n"
        "x = keras.layers.Dense(3, name='head')(x)",
        "def blocks():\n"
        "    for n in range(12):\n"
        "        yield keras.layers.Dense(8, 'sigmoid', name=f'deep_{n}')\n",
        "'adam', loss='mse'",
    ),
    ("GG232", 0): _network(
        "x = keras.layers.Dense(3, name='head')(x)",
        "def inputs(x):\n    return 1e4 * x\n\n\n"
        "def targets(y):\n    return 1e6 * y\n",
        epochs=20,
    )
    + _FIT.format("model.fit(x, y)"),
    ("GG232", 1): _network(
        "x = keras.layers.Dense(3, name='head')(x)",
        "def inputs(x):\n    return 3.0 * x\n\n\n"
        "def objective(y_true, y_pred):\n"
        "    return ops.sum(ops.square(y_true - y_pred))\n",
        "'sgd', loss=objective",
        epochs=40,
    ),
    ("GG232", 2): _network(
        "x = keras.layers.Reshape((4, 1))(x)\n"
        "x = keras.layers.RepeatVector(3)(keras.layers.Flatten()(x))\n"
        "x = keras.layers.SimpleRNN(\n"
        "    4, activation=None, name='recurrent',\n"
        "    recurrent_initializer=keras.initializers.Identity(2.0)\n"
        ")(x)\n"
        "x = keras.layers.Dense(3, name='head')(x)\n",
        epochs=20,
    ),
    ("GG232", 3): _network(
        "x = keras.layers.Reshape((4, 1))(x)\n"
        "x = keras.layers.SimpleRNN(4, activation=None, name='recurrent')(x)\n"
        "x = keras.layers.Dense(3, name='head')(x)\n"
        "rate = 1e-8\n"
        "optimizer = keras.optimizers.SGD(rate)",
        "def inputs(x):\n    return 30.0 * x\n\n\n"
        "def targets(y):\n    return 1e6 * y\n",
        "optimizer, loss='mse'",
    ),
    ("GG232", 4): _network(
        "x = keras.layers.Dense(3, name='head')(x)\n"
        "optimizer = keras.optimizers.SGD(0.01)",
        "def inputs(x):\n    return 30.0 * x\n\n\n"
        "def targets(y):\n    return 1e6 * y\n",
        "optimizer, loss='mse'",
    ),
    ("GG234", 1): _loss(
        "return -ops.mean(ops.square(y_true - y_pred))", "EPOCHS = 400\n\n"
    ),
    ("GG241", 0): _loss(
        'hard = ops.cast(y_pred > 0.5, "float32")\n'
        "error = (1.0 + hard) * ops.square(y_true - y_pred)\n"
        "return ops.mean(error, axis=-1)"
    ),
    ("GG241", 2): _loss(
        "one, other = y_pred, -2.0 - y_pred\n"
        "value = ops.where(y_pred > 0.5, one, other)\n"
        "return ops.mean(ops.square(y_true - value), axis=-1)"
    ),
    ("GG242", 0): _loss(
        "soft = y_pred\n"
        "hard = soft + ops.stop_gradient(ops.round(soft) - soft)\n"
        + _MEAN_OF.format("hard"),
        "CHECK = True\n\n",
    ),
    ("GG243", 0): _loss(
        "side = ops.sign(y_true * y_pred)\n"
        "error = (2.0 - side) * ops.square(y_true - y_pred)\n"
        "return ops.mean(error, axis=-1)"
    ),
    ("GG243", 1): _loss(
        "size = ops.abs(y_true - y_pred)\n"
        "level = ops.round(size)\n"
        "return ops.mean((1.0 + level) * size, axis=-1)"
    ),
    ("GG243", 2): _loss(
        "size = ops.abs(y_true - y_pred)\n"
        "level = ops.floor(size)\n"
        "return ops.mean((1.0 + level) * size, axis=-1)"
    ),
    ("GG302", 0): (
        "import keras\n\n\n"
        "def model():\n"
        "    inputs = keras.Input((4,))\n"
        '    head = keras.layers.Dense(3, name="head")(inputs)\n'
        '    spare = keras.layers.Dense(3, name="spare")(inputs)\n'
        '    outputs = {"head": head, "spare": spare}\n'
        "    network = keras.Model(inputs, outputs)\n"
        '    network.compile("adam", loss={"head": "mse"})\n'
        "    return network\n\n\n"
        'def targets(y):\n    return {"head": y, "spare": y}\n'
    ),
    ("GG304", 2): (
        "import keras\nimport tensorflow as tf\n\n\n"
        "class Stepwise(keras.layers.Layer):\n"
        "    def __init__(self, **arguments):\n"
        "        super().__init__(**arguments)\n"
        '        self.cell = keras.layers.Dense(3, name="cell")\n\n'
        "    def call(self, inputs):\n"
        "        states = tf.TensorArray(\n"
        "            tf.float32, size=2, element_shape=(None, 3)\n"
        "        )\n"
        "        for step in range(2):\n"
        "            state = self.cell(inputs * (1.0 + step))\n"
        "            states.write(step, state)\n"
        "        shape = (2, tf.shape(inputs)[0], 3)\n"
        "        states = tf.reshape(states.stack(), shape)\n"
        "        return tf.reduce_sum(states, axis=0)\n"
        "\n\n"
        "def model():\n"
        "    inputs = keras.Input((4,))\n"
        '    hidden = keras.layers.Dense(4, name="hidden")(inputs)\n'
        '    outputs = Stepwise(name="stepwise")(hidden)\n'
        '    spare = keras.layers.Dense(3, name="head")(inputs)\n'
        "    network = keras.Model(inputs, outputs + spare)\n"
        '    network.compile("adam", loss="mse")\n'
        "    return network\n"
    ),
    ("GG305", 1): (
        "import keras\nfrom keras import ops\n\n\n"
        "class Scaled(keras.layers.Layer):\n"
        "    def build(self, input_shape):\n"
        "        n = input_shape[-1:]\n"
        '        self.scores = self.add_weight(shape=n, name="scores")\n'
        "        self.share = ops.softmax(self.scores)\n\n"
        "    def call(self, inputs):\n"
        "        return inputs * self.share\n\n\n"
        "def model():\n"
        "    inputs = keras.Input((4,))\n"
        '    hidden = Scaled(name="scaled")(inputs)\n'
        '    outputs = keras.layers.Dense(3, name="head")(hidden)\n'
        "    network = keras.Model(inputs, outputs)\n"
        '    network.compile("adam", loss="mse")\n'
        "    return network\n"
    ),
    ("GG313", 2): _two_networks(
        "        gradients = tape.gradient(loss, "
        "self.online.trainable_variables)\n"
        "        self.optimizer.apply(gradients, self.target.variables)\n",
        "pair.stem.trainable = False",
    ),
    ("GG313", 3): _two_networks(
        "        weights = self.online.trainable_variables\n"
        "        gradients = tape.gradient(loss, weights)\n"
        "        self.optimizer.apply(gradients, weights)\n",
        "pair.target.trainable = False",
    ),
    ("GG311", 3): _network(
        "x = keras.layers.Dense(3, name='head')(x)",
        compiled="'adam', loss='mse', metrics=['accuracy']",
        epochs=20,
    )
    + _PLATEAU,
    ("GG311", 4): _network(
        "x = keras.layers.Dense(3, name='head')(x)",
        compiled="keras.optimizers.SGD(0.0), loss='mse'",
        epochs=10,
    ),
    ("GG317", 1): _network(
        "x = keras.layers.Dense(3, name='head')(x)",
        extra=_INVERSE,
        compiled="keras.optimizers.SGD(Inverse(0.01)), loss='mse'",
    ),
    ("GG312", 0): _network(
        "x = keras.layers.Dense(1, name='hidden')(x)\n"
        "x = keras.layers.Dense(\n"
        "    3, name='head',\n"
        "    kernel_constraint=keras.constraints.UnitNorm()\n"
        ")(x)",
        epochs=10,
    ),
    ("GG314", 0): _network(
        "x = keras.layers.Dense(8, name='hidden')(x)\n"
        "x = keras.layers.Dense(3, name='head')(x)",
    )
    + "\n\ndef run(model, x, y):\n"
    '    layer = model.get_layer("hidden")\n'
    "    layer.trainable = False\n"
    '    model.compile("sgd", loss="mse")\n'
    "    model.train_on_batch(x, y)\n"
    "    layer.trainable = True\n"
    "    model.fit(x, y)\n",
    ("GG314", 1): _network(
        "x = keras.layers.Dense(8, name='hidden')(x)\n"
        "x = keras.layers.Dense(3, name='head')(x)",
    )
    + _UNFREEZE,
    ("GG315", 1): _network(
        "x = keras.layers.Dense(3, name='head')(x)",
        compiled="keras.optimizers.SGD(1e-9), loss='mse'",
    ),
    ("GG316", 0): _network(
        "x = keras.layers.Dense(3, name='head')(x)", epochs=1
    )
    + "\n\ndef run(model, x, y):\n"
    "    discriminator = model\n"
    "    discriminator.trainable = False\n"
    "    discriminator.fit(x, y)\n",
}
