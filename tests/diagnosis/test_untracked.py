"""Weights that nobody trains, and those that are to stay as they are."""

import linecache

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import diagnose, watch
from tests.fitting import MODES, NAMES, X, Y, classifier, fit, marked

layers = keras.layers
eager_too = pytest.mark.parametrize("eager", MODES, ids=NAMES)


class Codes(layers.Layer):
    """Multiplies by what it holds as an attribute."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.codebook = tf.Variable(tf.ones((8, 8)), name="other")  # cut

    def call(self, inputs):
        """The forward pass."""
        return tf.matmul(inputs, self.codebook)


class Built(layers.Layer):
    """Begins with None, and makes the variable in `build`."""

    scale = None

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.scale = None

    def build(self, input_shape):
        """Makes the variable, and gives it a first value."""
        value = tf.ones(input_shape[-1:])
        self.scale = tf.Variable(
            initial_value=value,
        )  # cut
        self.scale.assign(2.0 * value)

    def call(self, inputs):
        """The forward pass."""
        return inputs * self.scale


class Several(layers.Layer):
    """Holds them in a list."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.books = []
        for _ in range(2):
            self.books.append(tf.Variable(tf.ones((8,))))  # cut

    def call(self, inputs):
        """The forward pass."""
        for book in self.books:
            inputs = inputs * book
        return inputs


class Helper:
    """Not a layer."""

    def __init__(self):
        self.scale = tf.Variable(tf.ones((8,)))  # cut


class WithHelper(layers.Layer):
    """Holds an object that is none of Keras'."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.helper = Helper()

    def call(self, inputs):
        """The forward pass."""
        return inputs * self.helper.scale


class Gathered(layers.Layer):
    """Looks rows up."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        table = tf.Variable(tf.random.normal((5, 8)))
        self.table = table  # cut

    def call(self, inputs):
        """The forward pass."""
        rows = tf.argmax(inputs[:, :5], axis=-1)
        return inputs + tf.nn.embedding_lookup(self.table, rows)


class WithOwn(keras.Model):
    """A model, not a layer of it, holds the variable."""

    def __init__(self):
        super().__init__()
        self.head = layers.Dense(3)
        self.scale = tf.Variable(tf.ones((4,)))  # cut

    def call(self, inputs):
        """The forward pass."""
        return self.head(inputs * self.scale)


class InStep(keras.Model):
    """Reads the variable in a step of its own."""

    def __init__(self):
        super().__init__()
        self.head = layers.Dense(3)
        self.weights_of_tasks = [tf.Variable(1.0) for _ in range(2)]  # cut

    def call(self, inputs):
        """The forward pass."""
        return self.head(inputs)

    def train_step(self, data):
        """One step of two losses."""
        x, y = data
        with tf.GradientTape() as tape:
            error = y - self(x, training=True)
            first, second = self.weights_of_tasks
            loss = first * tf.reduce_mean(tf.square(error))
            loss += second * tf.reduce_mean(tf.abs(error))
        variables = self.trainable_variables
        gradients = tape.gradient(loss, variables)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return {"loss": loss}


def middle(layer_class):
    """A model with the layer in its middle."""
    return lambda eager: classifier("mse", eager, layer_class(name="middle"))


def compiled(model_class):
    """A subclassed model."""

    def make(eager):
        model = model_class()
        model.compile("sgd", "mse", run_eagerly=eager)
        return model

    return make


def of_loss(eager):
    """The closure of a loss."""
    log_scale = tf.Variable(0.5)  # cut

    def loss(y_true, y_pred):
        square = tf.reduce_mean(tf.square(y_true - y_pred))
        return tf.exp(-log_scale) * square + log_scale

    return classifier(loss, eager)


OF_MODULE = tf.Variable(tf.ones((8,)))  # cut


def of_module(eager):
    """A name of the module."""
    scaled = layers.Lambda(lambda x: x * OF_MODULE, name="scaled")
    return classifier("mse", eager, scaled)


def of_list(eager):
    """A list in the closure of a Lambda."""
    scales = [tf.Variable(tf.ones((8,)))]  # cut
    return classifier("mse", eager, layers.Lambda(lambda x: x * scales[0]))


def of_keras(eager):
    """A variable of Keras that no layer holds."""
    scale = keras.Variable(np.ones((8,)), name="scale")  # cut
    return classifier("mse", eager, layers.Lambda(lambda x: x * scale))


def of_function(eager):
    """A `tf.function` in between."""
    scale = tf.Variable(tf.ones((8,)))  # cut

    @tf.function
    def scaled(inputs):
        return inputs * scale

    return classifier("mse", eager, layers.Lambda(lambda x: scaled(x)))


def captured(eager):
    """A layer in a Lambda."""
    inner = layers.Dense(8, name="inner")  # cut
    inner.build((None, 8))
    return classifier("mse", eager, layers.Lambda(lambda x: inner(x)))


def captured_model(eager):
    """A model in a Lambda."""
    inner = keras.Sequential([layers.Dense(8), layers.Dense(8)])  # cut
    inner.build((None, 8))
    return classifier("mse", eager, layers.Lambda(lambda x: inner(x)))


class Beside:
    """Holds a layer and is none."""

    def __init__(self):
        self.inner = layers.Dense(8)  # cut
        self.inner.build((None, 8))


class WithBeside(layers.Layer):
    """Calls a layer of an object that is none of Keras'."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.beside = Beside()

    def call(self, inputs):
        """The forward pass."""
        return self.beside.inner(inputs)


# What makes the model, where its line is, the code, and how many are lost.
BAD = {
    "attribute": (middle(Codes), Codes, "GG308", 1),
    "build": (middle(Built), None, "GG308", 1),
    "list": (middle(Several), Several, "GG308", 2),
    "object": (middle(WithHelper), Helper, "GG308", 1),
    "gather": (middle(Gathered), Gathered, "GG308", 1),
    "model": (compiled(WithOwn), WithOwn, "GG308", 1),
    "step": (compiled(InStep), InStep, "GG308", 2),
    "loss": (of_loss, of_loss, "GG308", 1),
    "list in a closure": (of_list, of_list, "GG308", 1),
    "keras variable": (of_keras, of_keras, "GG308", 1),
    "function": (of_function, of_function, "GG308", 1),
    "layer": (captured, captured, "GG309", 2),
    "captured model": (captured_model, captured_model, "GG309", 4),
    "layer of an object": (middle(WithBeside), Beside, "GG309", 2),
}


def line_of(name):
    """The file and the line that make what is lost."""
    _, where, _, _ = BAD[name]
    if where is not None:
        return marked(where)
    file, line = marked(Built)
    return file, line - 2


@eager_too
@pytest.mark.parametrize("name", BAD)
def test_it_is_named(name, eager):
    """The line that makes it, in `fit` and in `diagnose`; a warning."""
    make, _, code, number = BAD[name]
    for look in (fit, lambda model: (diagnose(model, X, Y), None)):
        seen, error = look(make(eager))
        assert error is None
        report = getattr(seen, "report", seen)
        (found,) = report.diagnoses
        assert (code, *line_of(name)) == (found.code, found.file, found.line)
        assert ("warning", number) == (found.severity, len(found.variables))
        known = sum(row.status == "ok" for row in report.variables)
        assert known == len(report.variables)
        assert found.num_variables == known + number


@eager_too
def test_a_name_of_the_module(eager):
    """The line that makes it stands outside of each function."""
    callback, _ = fit(of_module(eager))
    (found,) = callback.report.diagnoses
    line = linecache.getline(found.file, found.line)
    assert line.startswith("OF_MODULE = ")
    assert ("OF_MODULE",) == found.variables


class Two(layers.Layer):
    """Which of two lines has made the variable is not in the text."""

    def __init__(self, kind="ones", **kwargs):
        super().__init__(**kwargs)
        if kind == "ones":
            self.scale = tf.Variable(tf.ones((8,)))
        else:
            self.scale = tf.Variable(tf.zeros((8,)))

    def call(self, inputs):
        """The forward pass."""
        return inputs * self.scale


def test_two_lines_that_fit():
    """No line is given, but the layer and the attribute."""
    callback, _ = fit(classifier("mse", middle=Two(name="two")))
    (found,) = callback.report.diagnoses
    assert ("GG308", None) == (found.code, found.line)
    assert ("net/two/scale",) == found.variables
    assert "`scale`" in str(found)


class OnlyOwn(keras.Model):
    """Keras knows none of its weights."""

    def __init__(self):
        super().__init__()
        self.kernel = tf.Variable(tf.ones((4, 3)))  # cut

    def call(self, inputs):
        """The forward pass."""
        return tf.matmul(inputs, self.kernel)


@eager_too
def test_all_are_lost(eager):
    """That is an error; the model trains nothing."""
    callback, _ = fit(compiled(OnlyOwn)(eager))
    (found,) = callback.report.diagnoses
    assert ("GG308", "error") == (found.code, found.severity)
    assert marked(OnlyOwn) == (found.file, found.line)


def test_it_can_be_expected_or_raised():
    """`expect` and `on_break` go for it as for others."""
    model = classifier("mse", middle=Codes(name="codes"))
    callback, error = fit(model, expect=["codes/codebook$"])
    assert error is None
    assert callback.report.ok
    _, error = fit(model, on_break="raise")
    assert "GG308" == error.report.diagnoses[0].code


def test_a_later_fit_tells_it_too():
    """What the kept step has shown holds."""
    model = classifier("mse", middle=Codes(name="codes"))
    for _ in range(2):
        callback, _ = fit(model)
        assert ["GG308"] == [d.code for d in callback.report.diagnoses]


@eager_too
def test_a_loop(eager):
    """`watch` tells of it as well."""
    model = classifier("mse", middle=Codes(name="codes"))
    optimizer = keras.optimizers.SGD()

    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(Y - model(X)))
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)

    run = step if eager else tf.function(step)
    with pytest.warns(UserWarning, match="GG308"):
        with watch(model, optimizer=optimizer) as seen:
            run()
            run()
    (found,) = seen.report.diagnoses
    assert ("GG308", *marked(Codes)) == (found.code, found.file, found.line)
