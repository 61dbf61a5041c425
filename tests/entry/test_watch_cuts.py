"""`watch`: planted cuts in custom loops, each with its exact line."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradientBreakError, GradientBreakWarning, watch
from tests.fitting import marked
from tests.looping import MODES, X, Y, compiled, loop, network, trainer


def rounded(y, p):
    """GG105."""
    q = tf.round(p)  # cut
    return tf.reduce_mean(tf.square(y - q))


def compared(y, p):
    """GG102."""
    hard = tf.cast(p > 0.5, tf.float32)  # cut
    return tf.reduce_mean(tf.square(y - hard))


def best(y, p):
    """GG104."""
    index = tf.argmax(p, -1)  # cut
    return tf.reduce_mean(tf.square(y[:, 0] - tf.cast(index, tf.float32)))


def stopped(y, p):
    """GG106."""
    p = tf.stop_gradient(p)  # cut
    return tf.reduce_mean(tf.square(y - p))


def _no_gradient(upstream):
    """Forgets what came in."""
    del upstream
    return None  # cut


@tf.custom_gradient
def _none(t):
    return t * 2.0, _no_gradient


def own_gradient(y, p):
    """GG111 or whatever its code is."""
    p = _none(p)
    return tf.reduce_mean(tf.square(y - p))


own_gradient.guilty = _no_gradient


def with_numpy(y, p):
    """GG101, C function."""
    q = np.exp(p)  # cut
    return tf.reduce_mean(tf.square(y - q))


def with_numpy_mean(y, p):
    """GG101, Python function."""
    q = np.mean(p, axis=0)  # cut
    return tf.reduce_mean(tf.square(y - q))


def with_asarray(y, p):
    """GG101, which takes the memory as it is."""
    q = np.asarray(tf.nn.softmax(p))  # cut
    return tf.reduce_mean(tf.square(y - q))


def with_float(y, p):
    """GG108."""
    q = float(tf.reduce_mean(p))  # cut
    return tf.reduce_mean(tf.square(y - q))


def with_method(y, p):
    """GG108."""
    q = p.numpy().max()  # cut
    return tf.reduce_mean(tf.square(y - q))


def unregistered(y, p):
    """GG107."""
    image = tf.reshape(p, [1, 16, 3, 1])
    q = tf.image.resize(image, [8, 2], "area")  # cut
    return tf.reduce_mean(q)


CUTS = [
    (rounded, "GG105"),
    (compared, "GG102"),
    (best, "GG104"),
    (stopped, "GG106"),
    (own_gradient, "custom-gradient-none"),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("loss", "code"), CUTS)
def test_every_gradient_lost(loss, code, mode):
    """The error has the op's line, before any weight has moved."""
    model = network()
    step, optimizer = trainer(model, loss, mode)
    before = model.get_weights()
    health, error = loop(model, step)
    assert isinstance(error, GradientBreakError), error
    (found,) = error.report.diagnoses
    assert code in (found.code, found.name)
    guilty = getattr(loss, "guilty", loss)
    assert marked(guilty) == (found.file, found.line)
    assert "proved" == found.certainty
    assert 4 == len(found.variables)
    assert "No gradients provided" in str(error)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert "apply" not in vars(optimizer)
    assert health.report.diagnoses == error.report.diagnoses


@pytest.mark.parametrize(
    ("loss", "code"),
    [
        (with_numpy, "GG101"),
        (with_numpy_mean, "GG101"),
        (with_asarray, "GG101"),
        (with_float, "GG108"),
        (with_method, "GG108"),
    ],
)
def test_read_out_in_an_eager_loop(loss, code):
    """The line that took the numbers out."""
    model = network()
    _, error = loop(model, trainer(model, loss)[0])
    assert isinstance(error, GradientBreakError), error
    (found,) = error.report.diagnoses
    assert (code, *marked(loss)) == (found.code, found.file, found.line)


@pytest.mark.parametrize("loss", [with_numpy, with_method])
def test_read_out_in_a_compiled_loop(loss):
    """TensorFlow's exception keeps its type and gets the diagnosis."""
    model = network()
    health, error = loop(model, trainer(model, loss, "graph")[0])
    assert not isinstance(error, GradientBreakError)
    (note,) = error.__notes__
    (found,) = health.report.diagnoses
    assert str(found) in note
    assert marked(loss) == (found.file, found.line)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_unregistered(mode):
    """LookupError, its note has the line of the op."""
    model = network()
    health, error = loop(model, trainer(model, unregistered, mode)[0])
    assert "LookupError" in repr(error)
    assert str(health.report.diagnoses[0]) in error.__notes__[0]
    (found,) = health.report.diagnoses
    assert "GG107" == found.code
    assert marked(unregistered) == (found.file, found.line)


def floor():
    """Returns a layer that cuts what lies before it."""
    return keras.layers.Lambda(lambda t: tf.floor(t), name="floor")  # cut


def mse(y, p):
    """Cuts nothing."""
    return tf.reduce_mean(tf.square(y - p))


@pytest.mark.parametrize("mode", MODES)
def test_some_gradients_lost(mode):
    """Warned of once, before the update; the loop goes on."""
    model = network(floor())
    step, _ = trainer(model, mse, mode)
    with pytest.warns(GradientBreakWarning) as caught:
        with watch(model, every=1) as health:
            for _ in range(4):
                step(X, Y)
    assert 1 == len([w for w in caught if w.category is GradientBreakWarning])
    (found,) = health.report.diagnoses
    assert ("GG105", *marked(floor)) == (found.code, found.file, found.line)
    assert ("net/hidden/kernel", "net/hidden/bias") == found.variables
    statuses = [row.status for row in health.report.variables]
    assert ["missing", "missing", "ok", "ok"] == statuses


def inline(mode="eager"):
    """A loop without any function."""
    model = network()
    optimizer = keras.optimizers.SGD()
    with watch(model):
        for _ in range(2):
            with tf.GradientTape() as tape:
                p = model(X, training=True)
                q = tf.sign(tf.round(p))  # cut
                loss = tf.reduce_mean(tf.abs(q - Y))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(
                zip(gradients, model.trainable_variables, strict=True)
            )


def test_inline_loop():
    """The optimizer may be made after the model, before the block."""
    with pytest.raises(GradientBreakError) as caught:
        inline()
    (found,) = caught.value.report.diagnoses
    assert marked(inline) == (found.file, found.line)


def test_forward_pass_is_a_function_and_the_tape_is_eager():
    """The way leads into the graph of the function."""
    model = network(floor())

    @tf.function
    def forward(x):
        return model(x, training=True)

    optimizer = keras.optimizers.SGD()

    def step(x, y):
        with tf.GradientTape() as tape:
            value = mse(y, forward(x))
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    health, error = loop(model, step)
    assert error is None
    (found,) = health.report.diagnoses
    assert ("GG105", *marked(floor)) == (found.code, found.file, found.line)


def test_gradients_come_from_a_function_and_apply_is_eager():
    """The way is found in the graph that asked the tape."""
    model = network(floor())
    optimizer = keras.optimizers.SGD()

    @tf.function
    def gradients_of(x, y):
        with tf.GradientTape() as tape:
            value = mse(y, model(x, training=True))
        return tape.gradient(value, model.trainable_variables)

    def step(x, y):
        optimizer.apply(gradients_of(x, y), model.trainable_variables)

    health, error = loop(model, step)
    assert error is None
    (found,) = health.report.diagnoses
    assert ("GG105", *marked(floor)) == (found.code, found.file, found.line)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_outside_the_tape(mode):
    """The prediction was made before the tape began."""
    model = network()
    optimizer = keras.optimizers.SGD()

    def step(x, y):
        p = model(x, training=True)  # cut
        with tf.GradientTape() as tape:
            value = mse(y, p)
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    _, error = loop(model, compiled(step, mode))
    (found,) = error.report.diagnoses
    assert "outside-the-tape" == found.name
    assert marked(step) == (found.file, found.line)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_unused_layer(mode):
    """A layer that the forward pass leaves out."""
    model = network()
    optimizer = keras.optimizers.SGD()

    def step(x, y):
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(model.get_layer("hidden")(x))
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    health, error = loop(model, compiled(step, mode))
    assert error is None
    (found,) = health.report.diagnoses
    assert "unused" == found.kind
    assert ("net/head/kernel", "net/head/bias") == found.variables


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("loss", [rounded, mse], ids=["all", "some"])
def test_stop_leaves_the_block(loss, mode):
    """The block ends before the update and nothing is raised."""
    model = network(*[floor()] * (loss is mse))
    step, optimizer = trainer(model, loss, mode)
    with pytest.warns(GradientBreakWarning):
        with watch(model, on_break="stop") as health:
            step(X, Y)
            pytest.fail("the block went on")
    assert health.stopped
    assert 0 == int(optimizer.iterations)
    assert "apply" not in vars(optimizer)
    assert 1 == len(health.report.diagnoses)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_raise(mode):
    """A partial cut is raised before the update."""
    model = network(floor())
    step, optimizer = trainer(model, mse, mode)
    _, error = loop(model, step, on_break="raise")
    assert isinstance(error, GradientBreakError)
    assert 0 == int(optimizer.iterations)


def test_a_cut_of_a_later_eager_step():
    """It is explained in the step after it."""
    model = network()
    optimizer = keras.optimizers.SGD()
    turns = []

    def step(x, y):
        turns.append(0)
        with tf.GradientTape() as tape:
            hidden = model.layers[0](x)
            if len(turns) > 3:
                hidden = tf.round(hidden)  # cut
            value = mse(y, model.layers[1](hidden))
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    health, error = loop(model, step, turns=6)
    assert error is None
    (found,) = health.report.diagnoses
    assert ("GG105", *marked(step)) == (found.code, found.file, found.line)
