"""Steps of the user's own whose optimizer has a loss scale."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback, watch

generator = np.random.default_rng(0)
X = generator.normal(size=(16, 4)).astype("float32")
Y = np.eye(3, dtype="float32")[generator.integers(0, 3, 16)]
MODES = [False, True]
NAMES = ["compiled", "eager"]


class Own(keras.Model):
    """A step that is written out; its loss and gradients may be scaled."""

    def __init__(self):
        super().__init__()
        half = {"dtype": "mixed_float16"}
        self.hidden = keras.layers.Dense(8, "tanh", **half)
        self.head = keras.layers.Dense(3, **half)
        self.by_hand = tf.Variable(2.0**15, trainable=False)

    def call(self, inputs):
        """Asks both layers."""
        return self.head(self.hidden(inputs))

    def scaled(self, loss):
        """The loss that the tape is asked about."""
        return loss

    def train_step(self, data):
        """Trains on a loss in float32."""
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = tf.cast(self(x, training=True), tf.float32)
            loss = tf.reduce_mean(tf.square(y_pred - y))
            scaled = self.scaled(loss)
        weights = self.trainable_variables
        gradients = tape.gradient(scaled, weights)  # BREAK
        self.optimizer.apply(gradients, weights)
        return {"loss": loss}


class Scaling(Own):
    """As Keras asks for."""

    def scaled(self, loss):
        """Asks the optimizer."""
        return self.optimizer.scale_loss(loss)


class ByConstant(Own):
    """Knows what the scale begins with."""

    def scaled(self, loss):
        """Multiplies by it."""
        return loss * self.optimizer.initial_scale


class ByVariable(Own):
    """Holds a scale of its own."""

    def scaled(self, loss):
        """Multiplies by it."""
        return loss * self.by_hand


class ByReading(Own):
    """Reads the scale of the optimizer."""

    def scaled(self, loss):
        """Multiplies by it, once it is there."""
        if not self.optimizer.built:
            return loss * self.optimizer.initial_scale
        return loss * tf.convert_to_tensor(self.optimizer.dynamic_scale)


class Inherited(Own):
    """Calls the step of Keras."""

    def train_step(self, data):
        """Adds nothing."""
        return keras.Model.train_step(self, data)


def fit(model, eager, optimizer=None):
    """Trains; returns the report."""
    optimizer = optimizer or keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.01)
    )
    model.compile(optimizer, "mse", run_eagerly=eager)
    guard = GradHealthCallback(every=1)
    model.fit(X, Y, epochs=4, batch_size=16, verbose=0, callbacks=[guard])
    assert guard.report.not_checked is None
    return guard.report


def line(mark="# BREAK"):
    """The number of the line that asks the tape."""
    with open(__file__) as file:
        return next(n for n, t in enumerate(file, 1) if f"  {mark}\n" in t)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_a_loss_that_nobody_scales(eager):
    """All variables are hit, at the line that asks the tape."""
    (found,) = fit(Own(), eager).diagnoses
    assert ("GG263", "underflow") == (found.code, found.kind)
    assert ("error", line(), 4) == (
        found.severity,
        found.line,
        len(found.variables),
    )


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize(
    "kind", [Scaling, ByConstant, ByVariable, ByReading, Inherited]
)
def test_a_loss_that_is_scaled_in_some_way(kind, eager):
    """The optimizer divides by what the loss was multiplied with."""
    assert () == fit(kind(), eager).diagnoses


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_an_optimizer_that_divides_by_nothing(eager):
    """There is nothing to make up for."""
    assert () == fit(Own(), eager, keras.optimizers.SGD(0.01)).diagnoses
    of_one = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.01), initial_scale=1.0
    )
    assert () == fit(Own(), eager, of_one).diagnoses


class Loop:
    """A loop with the same loss, under `watch`.

    Args:
        kind: The model, which may scale the loss.
        eager: Whether its step runs eagerly.
        optimizer: The optimizer, by default one with a loss scale.
    """

    def __init__(self, kind, eager, optimizer=None):
        self.model = kind()
        self.model.optimizer = self.optimizer = optimizer or (
            keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01))
        )
        self.step = self.trained if eager else tf.function(self.trained)

    def trained(self, x, y):
        """One step."""
        with tf.GradientTape() as tape:
            y_pred = tf.cast(self.model(x, training=True), tf.float32)
            loss = tf.reduce_mean(tf.square(y_pred - y))
            scaled = self.model.scaled(loss)
        weights = self.model.trainable_variables
        gradients = tape.gradient(scaled, weights)  # LOOP
        self.optimizer.apply(gradients, weights)

    def report(self):
        """Trains; returns the report."""
        with watch(self.model, every=1) as health:
            for _ in range(4):
                self.step(tf.constant(X), tf.constant(Y))
        assert health.report.not_checked is None
        return health.report


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_a_loop_that_scales_nothing(eager):
    """All variables are hit, at the line that asks the tape."""
    (found,) = Loop(Own, eager).report().diagnoses
    assert ("GG263", "underflow", "error") == (
        found.code,
        found.kind,
        found.severity,
    )
    assert (line("# LOOP"), 4) == (found.line, len(found.variables))


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("kind", [Scaling, ByConstant, ByVariable, ByReading])
def test_a_loop_that_scales_in_some_way(kind, eager):
    """The optimizer divides by what the loss was multiplied with."""
    assert () == Loop(kind, eager).report().diagnoses


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_a_loop_whose_optimizer_divides_by_nothing(eager):
    """There is nothing to make up for."""
    assert () == Loop(Own, eager, keras.optimizers.SGD(0.01)).report().diagnoses


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_a_loop_of_two_models(eager):
    """The line is that of the tape of the model that is watched."""

    class Two(Loop):
        def trained(self, x, y):
            super().trained(x, y)
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(self.other(x) - y))
            weights = self.other.trainable_variables
            self.plain.apply(tape.gradient(loss, weights), weights)

    looped = Two(Own, eager)
    looped.other, looped.plain = keras.layers.Dense(3), keras.optimizers.SGD()
    (found,) = looped.report().diagnoses
    assert ("GG263", line("# LOOP")) == (found.code, found.line)
