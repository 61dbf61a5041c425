"""What a first step builds is what Keras builds, and one trace does."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback
from tests.fitting import X, Y
from tests.ways.alike import alike, one_batch


def counted(losses, draw=lambda: 0.0):
    """A loss that notes each of its traces.

    Args:
        losses: The list to note it in.
        draw: Draws a number that the trace keeps.
    """

    def loss(y_true, y_pred):
        losses.append(y_pred)
        return tf.reduce_mean(tf.square(y_true - y_pred + draw()), axis=-1)

    return loss


def maker(
    traces, optimizer=keras.optimizers.Adam, metrics=None, draw=lambda: 0.0
):
    """Makes a model anew, its traces counted."""

    def make():
        traces.clear()
        output = keras.layers.Dense(3, name="output")
        model = keras.Sequential([keras.Input((4,)), output], name="model")
        model.compile(optimizer(), counted(traces, draw), metrics=metrics)
        return model

    return make


@pytest.mark.parametrize("metrics", [None, ["mse"], ["mse", "mae"]])
def test_one_trace_does(metrics):
    traces = []
    alike(maker(traces, metrics=metrics), one_batch())
    assert len(traces) == 1


def test_keras_alone_takes_two():
    traces = []
    model = maker(traces)()
    model.fit(X, Y, verbose=0)
    assert len(traces) == 2, "Keras no longer traces twice: see first_trace.py"


def test_a_trace_that_draws_is_made_twice():
    traces = []
    make = maker(traces, draw=lambda: np.float32(np.random.normal()))
    alike(make, one_batch())
    assert len(traces) == 2


@pytest.mark.parametrize("name", ["Adagrad", "RMSprop", "Ftrl", "Lion"])
def test_slots_have_the_names_and_values_of_keras(name):
    slots = []
    make = maker([], lambda: getattr(keras.optimizers, name)(name="own"))

    def train(model, callbacks):
        done = one_batch()(model, callbacks)
        slots.append([v.path for v in model.optimizer.variables])
        return done

    alike(make, train)
    bare, guarded = slots
    assert bare == guarded


class Counting(keras.layers.Layer):
    """Counts in Python how often it is called, and uses the count."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def call(self, x):
        self.calls += 1
        return x * float(self.calls)


class CountingLoss(keras.losses.Loss):
    """Likewise, in a loss."""

    calls = 0

    def call(self, y_true, y_pred):
        self.calls += 1
        return tf.reduce_mean(tf.square(y_true - y_pred)) * self.calls


@pytest.mark.parametrize("is_loss", [False, True], ids=["layer", "loss"])
def test_a_trace_that_counts_itself_is_made_twice(is_loss):
    def make():
        layers = [keras.layers.Dense(3), Counting()]
        model = keras.Sequential([keras.Input((4,)), *layers[: 2 - is_loss]])
        model.compile("adam", CountingLoss() if is_loss else "mse")
        return model

    alike(make, one_batch(epochs=3))


def test_a_metric_that_draws_is_traced_twice():
    class Drawing(keras.metrics.Mean):
        def update_state(self, y_true, y_pred, sample_weight=None):
            return super().update_state(np.float32(np.random.normal()))

    traces = []

    def make():
        traces.clear()
        model = maker(traces)()
        model.compile("adam", counted(traces), metrics=[Drawing()])
        return model

    alike(make, one_batch())
    assert len(traces) == 2


def test_slots_of_a_checkpoint_that_is_restored_before(tmp_path):
    def saved(model):
        return tf.train.Checkpoint(model=model, optimizer=model.optimizer)

    first = maker([])()
    first.fit(X, Y, verbose=0)
    path = saved(first).save(tmp_path / "saved")

    def make():
        model = maker([])()
        saved(model).restore(path)
        return model

    model, _ = alike(make, one_batch())
    assert model.optimizer.iterations > 1


def test_losses_of_several_outputs():
    traces = []

    def make():
        traces.clear()
        inputs = keras.Input((4,))
        outputs = {
            name: keras.layers.Dense(3, name=name)(inputs) for name in "ab"
        }
        model = keras.Model(inputs, outputs)
        losses = {"a": counted(traces), "b": "mse"}
        model.compile("adam", losses, metrics={"a": ["mae"], "b": ["mse"]})
        return model

    alike(make, one_batch(y={"a": Y, "b": Y}))


def test_a_forward_pass_that_fails_leaves_the_optimizer_unbuilt():
    def loss(y_true, y_pred):
        raise RuntimeError("on the way")

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("adam", loss)
    with pytest.raises(RuntimeError, match="on the way"):
        model.fit(X, Y, verbose=0, callbacks=[GradHealthCallback()])
    assert not model.optimizer.built


def test_a_model_that_is_built_by_its_first_step():
    def make():
        model = keras.Sequential([keras.layers.Dense(3)])
        model.compile("adam", "mse", metrics=["mae"])
        return model

    alike(make, one_batch())


class Blocks(keras.Model):
    """Makes its layers' weights in its first call."""

    def __init__(self, note):
        super().__init__()
        self.block = keras.Sequential(
            [keras.layers.Dense(5, "relu"), keras.layers.Dense(3)]
        )
        self.note = note

    def call(self, x):
        return self.block(x)


class OwnStep(Blocks):
    """Likewise, with a step of its own."""

    factor = 1.0

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.factor * tf.reduce_mean(tf.square(y - y_pred))
        self.note(loss)
        variables = self.trainable_variables
        gradients = tape.gradient(loss, variables)
        self.optimizer.apply(gradients, variables)
        return {"loss": loss}


class CountingStep(OwnStep):
    """Counts its traces in Python, and uses the count."""

    def train_step(self, data):
        self.factor += 1.0
        return super().train_step(data)


class DrawingStep(OwnStep):
    """Draws a number of each trace."""

    def train_step(self, data):
        self.factor = np.float32(np.random.normal())
        return super().train_step(data)


class CompiledStep(OwnStep):
    """A `tf.function` inside of the one that Keras makes."""

    train_step = tf.function(OwnStep.train_step)


class MakingStep(OwnStep):
    """Makes a variable in its first trace."""

    own = None

    def train_step(self, data):
        if self.own is None:
            self.own = tf.Variable(1.0, trainable=False)
        self.own.assign_add(1.0)
        x, y = data
        return super().train_step((x, y * self.own))


def own_maker(kind, traces, optimizer=keras.optimizers.Adam):
    """Makes a model of one of these kinds anew."""

    def make():
        traces.clear()
        model = kind(traces.append)
        model.compile(optimizer(), counted(traces))
        return model

    return make


@pytest.mark.parametrize(
    ("kind", "most"),
    [
        (Blocks, 1),
        (OwnStep, 1),
        (CompiledStep, 1),
        (CountingStep, 2),
        (DrawingStep, 2),
        (MakingStep, 2),
    ],
)
def test_a_model_that_its_first_step_builds(kind, most):
    """As many traces as are needed for the same bits."""
    traces = []
    alike(own_maker(kind, traces), one_batch(epochs=3))
    # A step of one's own is traced once more for a look at its loss.
    assert len(traces) - (kind is not Blocks) == most


class DrawnWeights(keras.layers.Layer):
    """Draws in Python what its weights begin with, as it is built."""

    def build(self, shape):
        first = np.random.normal(size=(shape[-1], 3)).astype("float32")
        self.kernel = self.add_weight(shape=first.shape, name="kernel")
        self.kernel.assign(first)
        self.bias = self.add_weight(shape=(3,), initializer="random_normal")

    def call(self, x):
        return x @ self.kernel + self.bias


@pytest.mark.parametrize("is_inside", [False, True])
def test_weights_that_are_drawn_as_a_layer_is_built(is_inside):
    """Building is no part of the step: what it draws is drawn once."""
    traces = []

    def make():
        traces.clear()
        layers = [keras.layers.Dense(4), DrawnWeights()]
        if is_inside:
            layers = [keras.Sequential(layers)]
        model = keras.Sequential(layers)
        model.compile("adam", counted(traces))
        return model

    alike(make, one_batch(epochs=3))


def scaled(scale=2.0**20):
    """An optimizer with a loss scale."""
    return keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(), initial_scale=scale
    )


@pytest.mark.parametrize("scale", [2.0**10, 2.0**127])
def test_loss_scale(scale):
    """The scale is a variable in the trace that counts, and may fall."""
    traces = []
    make = maker(traces, lambda: scaled(scale))
    model, _ = alike(make, one_batch(y=9 * Y, epochs=3))
    assert len(traces) == 1
    found = float(model.optimizer.dynamic_scale.value)
    assert (found == scale) == (scale < 2.0**20)


def test_loss_scale_of_a_step_of_its_own():
    """Nobody knows beforehand what it trains."""
    alike(own_maker(OwnStep, [], scaled), one_batch(epochs=3))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    """Keras itself adds the loss scale."""
    traces = []

    def make():
        traces.clear()
        before = keras.mixed_precision.dtype_policy()
        keras.mixed_precision.set_dtype_policy(policy)
        try:
            model = maker(traces)()
            model.compile("adam", counted(traces))
        finally:
            keras.mixed_precision.set_dtype_policy(before)
        return model

    alike(make, one_batch(epochs=3))
    assert len(traces) == 1
