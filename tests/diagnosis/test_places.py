"""The user's line is named wherever the guilty op sits."""

import functools

import keras
import pytest
import tensorflow as tf

from tests.fitting import MODES, NAMES, X, Y, classifier, fit, marked

pytestmark = pytest.mark.smoke


def nested(y_true, y_pred):
    """Cuts in a function inside a function."""

    def inner(scores):
        def innermost(values):
            return tf.round(values)  # cut

        return innermost(scores)

    return tf.reduce_mean(tf.square(y_true - inner(y_pred)))


@tf.function
def compiled_helper(scores):
    """Cuts in a helper of its own graph."""
    soft = tf.sigmoid(scores)
    return tf.cast(soft > 0.5, tf.float32)  # cut


def in_function(y_true, y_pred):
    """Calls the compiled helper."""
    return tf.reduce_mean(tf.square(y_true - compiled_helper(y_pred)))


@tf.function
def outer_helper(scores):
    """Calls a compiled helper from a compiled helper."""
    return 2.0 * compiled_helper(scores)


def in_nested_function(y_true, y_pred):
    """Calls the helper of the helper."""
    return tf.reduce_mean(tf.square(y_true - outer_helper(y_pred)))


def in_cond(y_true, y_pred):
    """Cuts in both branches' common value."""
    return tf.cond(
        tf.reduce_mean(y_true) > 100.0,
        lambda: tf.reduce_mean(tf.zeros_like(y_pred)),
        lambda: tf.reduce_mean(tf.floor(y_pred) - y_true),  # cut
    )


def in_while(y_true, y_pred):
    """Cuts in the body of a loop."""

    def body(step, scores):
        return step + 1, tf.math.ceil(scores)  # cut

    _, scores = tf.while_loop(lambda step, _: step < 2, body, (0, y_pred))
    return tf.reduce_mean(tf.square(y_true - scores))


def in_map(y_true, y_pred):
    """Cuts in the function of a map."""

    def row(scores):
        return tf.cast(tf.argmax(scores), tf.float32)  # cut

    return tf.reduce_mean(tf.map_fn(row, y_pred) - y_true[:, 0])


@tf.function
def branching(scores):
    """Cuts in an `if` that AutoGraph has made a branch of."""
    if tf.reduce_mean(scores) > -1000.0:
        scores = tf.sign(scores - 0.5) * tf.round(scores)  # cut
        scores = tf.stop_gradient(scores)
    return scores


class RoundedLoss(keras.losses.Loss):
    """Cuts in a method."""

    def call(self, y_true, y_pred):
        """Returns the rounded error."""
        rounded = self._rounded(y_pred)
        return tf.reduce_mean(tf.square(y_true - rounded), axis=-1)

    def _rounded(self, scores):
        return keras.ops.round(scores)  # cut


def make_closure(threshold):
    """Returns a loss that closes over a number."""

    def closure(y_true, y_pred):
        hard = keras.ops.cast(y_pred > threshold, "float32")  # cut
        return keras.ops.mean(keras.ops.abs(y_true - hard))

    return closure


def with_factor(factor, y_true, y_pred):
    """Is made a loss by functools.partial."""
    hard = factor * tf.stop_gradient(y_pred)  # cut
    return tf.reduce_mean(tf.abs(y_true - hard))


def partial_loss():
    """Returns a functools.partial that has no name of its own."""
    return functools.partial(with_factor, 2.0)


LOSSES = {
    "nested": (nested, nested),
    "function": (in_function, compiled_helper.python_function),
    "function in function": (
        in_nested_function,
        compiled_helper.python_function,
    ),
    "cond": (in_cond, in_cond),
    "while": (in_while, in_while),
    "map": (in_map, in_map),
    "Loss subclass": (RoundedLoss(), RoundedLoss._rounded),
    "closure": (make_closure(0.5), make_closure),
    "partial": (partial_loss(), with_factor),
    "lambda": (
        lambda y_true, y_pred: tf.reduce_mean(
            tf.round(y_pred) - y_true,  # lambda
        ),
        None,
    ),
}


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("name", LOSSES)
def test_line_in_a_loss(name, eager):
    """All variables are lost; the line is the marked one."""
    loss, home = LOSSES[name]
    callback, _ = fit(classifier(loss, eager))
    (found,) = callback.report.diagnoses
    expected = marked(home) if home else (__file__, _lambda_line())
    assert expected == (found.file, found.line)
    assert "error" == found.severity
    assert 4 == len(found.variables) == found.num_variables


def _lambda_line():
    lines = open(__file__).read().splitlines()
    return next(
        number
        for number, text in enumerate(lines, 1)
        if text.endswith("# lambda")
    )


class Rounding(keras.layers.Layer):
    """A custom layer that cuts."""

    def call(self, inputs):
        """Rounds."""
        scaled = 4.0 * inputs
        return keras.ops.round(scaled) / 4.0  # cut


class Hard(keras.Model):
    """A subclassed model that cuts in its call."""

    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(8, name="hidden")
        self.head = keras.layers.Dense(3, name="head")

    def call(self, inputs, training=None):
        """Cuts between the two layers."""
        hidden = self.hidden(inputs)
        mask = tf.cast(hidden > 0, hidden.dtype)  # cut
        return self.head(mask)


class OwnStep(keras.Model):
    """A custom training step that cuts."""

    def train_step(self, data):
        """Differentiates a rounded prediction."""
        x, y = data
        with tf.GradientTape() as tape:
            scores = tf.round(self(x, training=True))  # cut
            loss = tf.reduce_mean(tf.square(y - scores))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_variables, strict=True)
        )
        return {"loss": loss}


def functional(layer):
    """Returns a Functional model with a layer in its middle."""
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8, name="hidden")(inputs)
    outputs = keras.layers.Dense(3, name="head")(layer(hidden))
    return keras.Model(inputs, outputs)


def lambda_layer():
    """Returns a Lambda layer that cuts."""
    return keras.layers.Lambda(lambda t: tf.floor(t), name="middle")  # cut


def own_step():
    """Returns a built model with its own training step."""
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8, name="hidden")(inputs)
    return OwnStep(inputs, keras.layers.Dense(3, name="head")(hidden))


MODELS = {
    "Lambda": (lambda: functional(lambda_layer()), lambda_layer, 2, "middle"),
    "layer": (
        lambda: functional(Rounding(name="middle")),
        Rounding.call,
        2,
        "middle",
    ),
    "Model.call": (Hard, Hard.call, 2, "hard"),
    "train_step": (own_step, OwnStep.train_step, 4, None),
}


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("name", MODELS)
def test_line_in_a_model(name, eager):
    """The line, the layer and the lost variables are the right ones."""
    keras.backend.clear_session()
    make, home, lost, layer = MODELS[name]
    model = make()
    model.compile("sgd", loss="mse", run_eagerly=eager)
    callback, _ = fit(model)
    (found,) = callback.report.diagnoses
    assert marked(home) == (found.file, found.line)
    assert lost == len(found.variables)
    assert 4 == found.num_variables
    assert all("hidden" in path for path in found.variables[:2])
    if layer is not None:
        assert layer == found.layer.split("/")[-1]
    assert ("warning" if lost < 4 else "error") == found.severity


def test_line_in_a_notebook_cell():
    """A cell has no file on disk; its source is where IPython puts it."""
    import linecache

    name = "<ipython-input-7-0123456789ab>"
    source = (
        "import tensorflow as tf\n"
        "def cell_loss(y_true, y_pred):\n"
        "    return tf.reduce_mean(tf.round(y_pred) - y_true)\n"
    )
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    space = {}
    exec(compile(source, name, "exec"), space)
    callback, _ = fit(classifier(space["cell_loss"]))
    (found,) = callback.report.diagnoses
    assert (name, 3, "cell_loss") == (found.file, found.line, found.function)
    assert "round" in "".join(found.snippet)


def test_helper_traced_before_the_guard_came():
    """A helper's graph is older than the guard; its line is still found."""
    model = classifier("mse")
    compiled_helper(model(X))
    model.compile("sgd", loss=in_function)
    callback, _ = fit(model)
    (found,) = callback.report.diagnoses
    assert marked(compiled_helper.python_function)[1] == found.line


def test_two_cuts_in_a_row_are_two_diagnoses():
    """Each cut names the variables behind it; the wider one comes first."""

    def loss(y_true, y_pred):
        return tf.reduce_mean(tf.floor(y_pred) - y_true)  # cut

    callback, _ = fit(classifier(loss, middle=lambda_layer()))
    wide, narrow = callback.report.diagnoses
    assert marked(loss)[1] == wide.line
    assert 4 == len(wide.variables)
    assert marked(lambda_layer)[1] == narrow.line
    assert ("net/hidden/kernel", "net/hidden/bias") == narrow.variables
    assert Y.shape == (16, 3)


def test_loss_that_returns_a_constant():
    """Where no line of the loss makes an op, its own line is named."""

    def constant(y_true, y_pred):  # cut
        return 0.0

    callback, _ = fit(classifier(constant))
    (found,) = callback.report.diagnoses
    assert ("GG303", marked(constant)[1]) == (found.code, found.line)
