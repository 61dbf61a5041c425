"""Weights that nobody trains, and those that are to stay as they are."""

import importlib.util
import linecache
import sys

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


class FromOutside(layers.Layer):
    """Begins with None, and gets the variable from elsewhere."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.scale = None
        self.scales = []

    def call(self, inputs):
        """The forward pass."""
        return inputs * self.scale * self.scales[0]


def test_no_line_makes_it():
    """That of a first `None` or `[]` is not told for it."""
    layer = FromOutside(name="outside")
    layer.scale = tf.Variable(tf.ones((8,)))
    layer.scales += [tf.Variable(tf.ones((8,)))]
    callback, _ = fit(classifier("mse", middle=layer))
    (found,) = callback.report.diagnoses
    assert ("GG308", None) == (found.code, found.line)
    assert ("net/outside/scale", "net/outside/scales/0") == found.variables


def test_two_closures_of_one_name():
    """The nearest scope counts, and no line where two of it fit."""
    OTHER = tf.Variable(tf.ones((8,)))  # cut
    alone = layers.Lambda(lambda x: x * OTHER)
    callback, _ = fit(classifier("mse", middle=alone))
    (found,) = callback.report.diagnoses
    assert marked(test_two_closures_of_one_name)[1] == found.line
    UNSURE = tf.Variable(tf.ones((8,)))
    if X is not None:
        UNSURE = tf.Variable(tf.zeros((8,)))
    unsure = layers.Lambda(lambda x: x * UNSURE)
    callback, _ = fit(classifier("mse", middle=unsure))
    (found,) = callback.report.diagnoses
    assert found.line is None


OTHER = UNSURE = len(str(X))


def test_an_argument():
    """The trick of `lambda x, w=w`."""
    w = tf.Variable(tf.ones((8,)))  # cut
    scaled = layers.Lambda(lambda x, w=w: x * w)
    callback, _ = fit(classifier("mse", middle=scaled))
    (found,) = callback.report.diagnoses
    assert marked(test_an_argument)[1] == found.line


def one_codes(value):
    """A class of its own in each function."""

    class Same(layers.Layer):
        def __init__(self):
            super().__init__()
            self.scale = tf.Variable(value)

        def call(self, inputs):
            return inputs * self.scale

    return Same()


def other_codes(value):
    """The same name."""

    class Same(layers.Layer):
        def __init__(self):
            super().__init__()
            self.scale = tf.Variable(value)  # cut

        def call(self, inputs):
            return inputs * self.scale

    return Same()


def test_two_classes_of_one_name():
    """The one that was made counts."""
    callback, _ = fit(classifier("mse", middle=other_codes(tf.ones((8,)))))
    (found,) = callback.report.diagnoses
    assert marked(other_codes) == (found.file, found.line)


PACKAGE = """
import keras
import tensorflow as tf


class Hub(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.table = tf.Variable(tf.ones((8,)))

    def call(self, inputs):
        return inputs * self.table
"""


@eager_too
@pytest.mark.parametrize("is_installed", [True, False])
def test_a_layer_of_a_package(is_installed, eager, tmp_path, monkeypatch):
    """What it holds is its affair, also below a class of the user's."""
    path = tmp_path / "hub_of_tests.py"
    path.write_text(PACKAGE)
    spec = importlib.util.spec_from_file_location("hub_of_tests", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "hub_of_tests", module)
    spec.loader.exec_module(module)

    class Own(module.Hub):
        def call(self, inputs):
            return super().call(inputs) + 1.0

    if is_installed:
        name = "keras_gradguard.source.held.installed_package"
        monkeypatch.setattr(name, lambda f: "hub" if str(path) == f else None)
    for layer in (module.Hub(), Own()):
        report = fit(classifier("mse", eager, layer))[0].report
        codes = [] if is_installed else ["GG308"]
        assert codes == [found.code for found in report.diagnoses]


class OnlyOwn(keras.Model):
    """Keras knows none of its weights."""

    def __init__(self):
        super().__init__()
        self.matrix = tf.Variable(tf.ones((4, 3)))  # cut

    def call(self, inputs):
        """The forward pass."""
        return tf.matmul(inputs, self.matrix)


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


class Frozen(Codes):
    """Says that it is not trained."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.codebook = tf.Variable(tf.ones((8, 8)), trainable=False)


class Counter(layers.Layer):
    """Holds an integer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.count = tf.Variable(2)

    def call(self, inputs):
        """The forward pass."""
        return inputs * tf.cast(self.count, tf.float32)


class Moving(Codes):
    """Its codebook follows the inputs."""

    def call(self, inputs, training=False):
        """The forward pass."""
        result = super().call(inputs)
        if training:
            mean = tf.reduce_mean(tf.matmul(inputs, inputs, transpose_a=True))
            self.codebook.assign(0.9 * self.codebook + 0.1 * mean)
        return result


class Scattered(Gathered):
    """Rows of its table are written in the step."""

    def call(self, inputs, training=False):
        """The forward pass."""
        result = super().call(inputs)
        if training:
            self.table.scatter_update(tf.IndexedSlices(tf.ones((1, 8)), [0]))
        return result


class PartAssigned(Gathered):
    """A part of its table is written in the step."""

    def call(self, inputs, training=False):
        """The forward pass."""
        result = super().call(inputs)
        if training:
            self.table[:1].assign(tf.ones((1, 8)))
        return result


class WrittenInFunction(Codes):
    """A function of its own writes."""

    @tf.function
    def follow(self):
        """Writes."""
        self.codebook.assign_add(tf.ones((8, 8)))

    def call(self, inputs, training=False):
        """The forward pass."""
        if training:
            self.follow()
        return super().call(inputs)


class Stopped(Codes):
    """Lets no gradient pass."""

    def call(self, inputs):
        """The forward pass."""
        return tf.matmul(inputs, tf.stop_gradient(self.codebook))


class Unread(layers.Layer):
    """Holds a variable that no step reads."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.spare = tf.Variable(tf.ones((8,)))

    def call(self, inputs):
        """The forward pass."""
        return inputs


class Noisy(layers.Layer):
    """Draws numbers in both ways."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generator = tf.random.Generator.from_seed(1)
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, inputs):
        """The forward pass."""
        noise = self.generator.normal(tf.shape(inputs))
        return inputs + noise + keras.random.normal((8,), seed=self.seeds)


class Tracked(layers.Layer):
    """Keras knows each of these."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.own = keras.Variable(np.ones((8,)), name="own")
        self.parts = {"dense": [layers.Dense(8)]}
        self.norm = layers.BatchNormalization()
        self.added = self.add_weight(shape=(8,), name="added")

    def call(self, inputs, training=False):
        """The forward pass."""
        hidden = self.parts["dense"][0](inputs * self.own) + self.added
        return self.norm(hidden, training=training)


class TrainedBeside(WithOwn):
    """Its step trains what Keras does not know, by the same optimizer."""

    def train_step(self, data):
        """One step."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(y - self(x, training=True)))
        variables = self.trainable_variables
        gradients = tape.gradient(loss, [*variables, self.scale])
        self.optimizer.apply(gradients[:-1], variables)
        self.scale.assign_sub(0.01 * gradients[-1])
        return {"loss": loss}


class ReadBefore(WithOwn):
    """Scales the targets by a variable, before a tape records."""

    def call(self, inputs):
        """The forward pass."""
        return self.head(inputs)

    def train_step(self, data):
        """One step."""
        x, y = data
        y = y * tf.reduce_mean(self.scale)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(y - self(x, training=True)))
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


class Distilled(keras.Model):
    """Follows a teacher that it does not hold."""

    def __init__(self, teacher):
        super().__init__()
        self.head = layers.Dense(3)
        self.teach = lambda x: teacher(x)

    def call(self, inputs):
        """The forward pass."""
        return self.head(inputs)

    def train_step(self, data):
        """One step."""
        x, _ = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self.teach(x) - self(x, training=True)) ** 2)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


class Adversaries(keras.Model):
    """Two networks, each with its optimizer; each step reads both."""

    def __init__(self, networks):
        super().__init__()
        self.networks = networks
        self.others = keras.optimizers.SGD(0.01)

    def call(self, inputs):
        """What the first one makes."""
        return self.networks()[0](inputs)

    def train_step(self, data):
        """One step of each."""
        x, y = data
        maker, judge = self.networks()
        for network, optimizer, sign in (
            (judge, self.others, -1.0),
            (maker, self.optimizer, 1.0),
        ):
            with tf.GradientTape() as tape:
                made, real = judge(maker(x)), judge(y)
                loss = sign * tf.reduce_mean(made**2 - real)
            variables = network.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


def network(inputs, units=3):
    """A built network of one layer."""
    return keras.Sequential([keras.Input((inputs,)), layers.Dense(units)])


def distilled(eager):
    """The teacher is left as it was made."""
    return compiled(lambda: Distilled(network(4)))(eager)


def adversaries(eager):
    """Keras knows neither of them; their optimizers do."""
    both = network(4), network(3, 1)
    return compiled(lambda: Adversaries(lambda: both))(eager)


def perceptual(eager):
    """A network in the loss, left trainable and trained by nobody."""
    features = network(3, 5)

    def loss(y_true, y_pred):
        return tf.reduce_mean((features(y_true) - features(y_pred)) ** 2)

    return classifier(loss, eager)


class PerceptualLoss(keras.losses.Loss):
    """The same as an attribute."""

    def __init__(self):
        super().__init__()
        self.features = network(3, 5)

    def call(self, y_true, y_pred):
        """The distance of the features."""
        return (self.features(y_true) - self.features(y_pred)) ** 2


class AddsPerceptual(layers.Layer):
    """The same in `add_loss`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        features = network(8, 5)
        self.features = lambda x: features(x)

    def call(self, inputs):
        """The forward pass."""
        self.add_loss(tf.reduce_mean(self.features(inputs) ** 2))
        return inputs


def frozen_layer(eager):
    """A layer in a Lambda that is frozen on purpose."""
    inner = layers.Dense(8, trainable=False)
    inner.build((None, 8))
    return classifier("mse", eager, layers.Lambda(lambda x: inner(x)))


def frozen_later(eager):
    """The same of a model, said after it was built."""
    inner = network(8, 8)
    inner.trainable = False
    return classifier("mse", eager, layers.Lambda(lambda x: inner(x)))


def held_frozen(eager):
    """Transfer learning: a part of the model is frozen."""
    inner = network(8, 8)
    inner.trainable = False
    return classifier("mse", eager, inner)


def held_elsewhere(eager):
    """The Lambda calls a layer that the model holds as well."""
    inner = layers.Dense(8)
    inputs = keras.Input((4,))
    hidden = layers.Lambda(lambda x: inner(x))(inner(layers.Dense(8)(inputs)))
    model = keras.Model(inputs, layers.Dense(3)(hidden))
    model.compile("sgd", "mse", run_eagerly=eager)
    return model


def annealed(eager):
    """A factor of the loss that somebody sets between the epochs."""
    beta = tf.Variable(1.0)

    def loss(y_true, y_pred):
        return beta * tf.reduce_mean(tf.square(y_true - y_pred))

    def set_it(epoch, logs):
        beta.assign(0.1 * epoch)

    model = classifier(loss, eager)
    model.anneal = keras.callbacks.LambdaCallback(on_epoch_begin=set_it)
    return model


class Annealing(keras.callbacks.Callback):
    """Sets what it was given."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def on_epoch_begin(self, epoch, logs=None):
        """Sets it."""
        self.weight.assign(0.1 * epoch)


def set_by_callback(eager):
    """The same, by an object that calls it otherwise."""
    gamma = tf.Variable(1.0)

    def loss(y_true, y_pred):
        return gamma * tf.reduce_mean(tf.square(y_true - y_pred))

    model = classifier(loss, eager)
    model.annealing = (Annealing(gamma),)
    return model


class Schedule:
    """Is no callback, and sets what it was given."""

    def __init__(self, weight):
        self.factor = weight

    def advance(self):
        """Sets it."""
        self.factor.assign(0.5 * self.factor)


def set_by_object(eager):
    """The same, by an object of the user's beside the training."""
    delta = tf.Variable(1.0)

    def loss(y_true, y_pred):
        return delta * tf.reduce_mean(tf.square(y_true - y_pred))

    model = classifier(loss, eager)
    SCHEDULES.append(Schedule(delta))
    return model


SCHEDULES = []


def trained_by_itself(eager):
    """A network that is compiled to be trained elsewhere."""
    judge = network(8, 8)
    judge.compile("sgd", "mse")
    return classifier("mse", eager, layers.Lambda(lambda x: judge(x)))


def mixed_precision(eager):
    """A loss scale, metrics and the slots of an optimizer."""
    inner = keras.optimizers.Adam()
    optimizer = keras.optimizers.LossScaleOptimizer(inner)
    model = classifier("mse", eager, Tracked(), optimizer)
    model.compile(optimizer, "mse", metrics=["mae"], run_eagerly=eager)
    return model


HEALTHY = {
    "frozen": middle(Frozen),
    "integer": middle(Counter),
    "moving": middle(Moving),
    "scattered": middle(Scattered),
    "part assigned": middle(PartAssigned),
    "written in a function": middle(WrittenInFunction),
    "stopped": middle(Stopped),
    "unread": middle(Unread),
    "random": middle(Noisy),
    "tracked": middle(Tracked),
    "trained beside": compiled(TrainedBeside),
    "read before": compiled(ReadBefore),
    "distilled": distilled,
    "adversaries": adversaries,
    "perceptual": perceptual,
    "perceptual object": lambda e: classifier(PerceptualLoss(), e),
    "perceptual layer": middle(AddsPerceptual),
    "frozen layer": frozen_layer,
    "frozen later": frozen_later,
    "held and frozen": held_frozen,
    "held elsewhere": held_elsewhere,
    "annealed": annealed,
    "set by a callback": set_by_callback,
    "set by an object": set_by_object,
    "trained by itself": trained_by_itself,
    "mixed precision": mixed_precision,
}


@eager_too
@pytest.mark.parametrize("name", HEALTHY)
def test_it_stays_silent(name, eager):
    """What is meant to stay, and what somebody does train."""
    for look in (fit, lambda model: (diagnose(model, X, Y), None)):
        seen, error = look(HEALTHY[name](eager))
        assert error is None
        report = getattr(seen, "report", seen)
        assert () == report.diagnoses
        assert report.not_checked is None


def num_calls(layer_class, guarded):
    """How often a compiled `fit` runs the Python code of a layer."""
    calls = []
    keras.utils.set_random_seed(0)

    class Counted(layer_class):
        def __call__(self, *given, **named):
            calls.append(self)
            return super().__call__(*given, **named)

    model = classifier("mse", middle=Counted())
    calls.clear()
    if guarded:
        fit(model)
    else:
        model.fit(X, Y, batch_size=16, verbose=0)
    return len(calls)


@pytest.mark.parametrize(
    ("layer_class", "more"),
    [(layers.PReLU, 0), (Frozen, 0), (Moving, 0), (Unread, 0), (Codes, 1)],
)
def test_no_step_is_traced_for_it(layer_class, more):
    """The graph that is there is asked first, and it mostly tells."""
    bare = num_calls(layer_class, guarded=False)
    assert bare + more == num_calls(layer_class, guarded=True)


def discriminator(eager=False):
    """A model of two layers that is compiled, and frozen afterwards."""
    model = classifier("mse", eager)
    model.trainable = False
    return model


@eager_too
def test_a_frozen_model(eager):
    """A warning that names it; what Keras says is all that it says."""
    for look in (
        lambda model: fit(model, on_break="raise"),
        lambda model: (diagnose(model, X, Y), None),
    ):
        seen, error = look(discriminator(eager))
        assert error is None
        report = getattr(seen, "report", seen)
        (found,) = report.diagnoses
        assert ("GG316", "warning") == (found.code, found.severity)
        assert 4 == len(found.variables)
        assert "`net`" in str(found)
        assert "4 variables, none is trainable" in str(found)
        assert "nothing broken" not in str(report)
        assert not report.ok


def test_a_model_of_frozen_layers():
    """Each layer is named, and one inside another is not."""
    inner = keras.Sequential([layers.Dense(8), layers.Dense(8)], name="inner")
    model = classifier("mse", middle=inner)
    model.get_layer("hidden").trainable = False
    inner.trainable = False
    assert () == fit(model)[0].report.diagnoses
    model.get_layer("head").trainable = False
    model.compile("sgd", "mse")
    (found,) = fit(model)[0].report.diagnoses
    text = " ".join(str(found).split())
    assert "set on `hidden`, `inner`, `head`" in text.replace("net/", "")


def test_a_gan_as_keras_2_had_it():
    """The generator learns; the discriminator, in its own `fit`, does not."""
    judge = network(3, 1)
    judge.compile("sgd", "mse")
    maker = network(4)
    judge.trainable = False
    both = keras.Sequential([keras.Input((4,)), maker, judge])
    both.compile("sgd", "mse")
    assert () == fit(both, X, Y[:, :1])[0].report.diagnoses
    (found,) = fit(judge, Y, Y[:, :1])[0].report.diagnoses
    assert "GG316" == found.code
    judge.trainable = True
    judge.compile("sgd", "mse")
    assert () == fit(judge, Y, Y[:, :1])[0].report.diagnoses


def test_a_model_without_weights():
    """There is nothing that could be frozen."""
    model = keras.Sequential([keras.Input((4,)), layers.Dropout(0.5)])
    model.compile("sgd", "mse")
    callback, error = fit(model, X, X)
    assert error is None
    assert () == callback.report.diagnoses


def test_frozen_after_its_step_was_traced():
    """That step goes on to train, and nothing is said of it."""
    model = classifier("mse")
    fit(model)
    model.trainable = False
    before = model.get_weights()[0]
    callback, _ = fit(model)
    codes = [found.code for found in callback.report.diagnoses]
    is_trained = bool(np.any(before != model.get_weights()[0]))
    assert is_trained == ("GG316" not in codes)
