"""Cuts that a regulariser, an `add_loss` or another head hides."""

import keras
import pytest
import tensorflow as tf

from tests.fitting import MODES, NAMES, X, Y, classifier, fit, marked


def rounded(y_true, y_pred):
    """Cuts the data loss."""
    return tf.reduce_mean(tf.square(y_true - tf.round(y_pred)))  # cut


def floor_layer():
    """Returns a Lambda layer that cuts."""
    return keras.layers.Lambda(lambda t: tf.floor(t), name="floor")  # cut


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_regularised_kernels_hide_a_cut_loss(eager):
    """Every variable gets a gradient of L2, and none of the data."""
    model = classifier(rounded, eager, use_bias=False, kernel_regularizer="l2")
    callback, error = fit(model)
    assert error is None
    (found,) = callback.report.diagnoses
    assert marked(rounded) == (found.file, found.line)
    assert ("GG105", "rounded") == (found.code, found.loss)
    assert 2 == len(found.variables)
    assert {"ok"} == {row.status for row in callback.report.variables}
    assert any("regularizer" in note for note in found.evidence["notes"])


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_regularised_kernel_hides_a_cut_layer(eager):
    """Only what lies behind the cut is lost, though L2 moves it."""
    model = classifier(
        "mse",
        eager,
        middle=floor_layer(),
        use_bias=False,
        kernel_regularizer="l2",
    )
    callback, _ = fit(model)
    (found,) = callback.report.diagnoses
    assert marked(floor_layer)[1] == found.line
    assert ("net/hidden/kernel",) == found.variables
    assert "warning" == found.severity


class Sparse(keras.layers.Layer):
    """Adds a loss that reaches everything before it."""

    def call(self, inputs):
        """Adds the mean square."""
        self.add_loss(tf.reduce_mean(tf.square(inputs)))
        return inputs


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_add_loss_hides_a_cut_loss(eager):
    """The compiled loss trains nothing; an `add_loss` trains it all."""
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8, name="hidden")(inputs)
    outputs = Sparse()(keras.layers.Dense(3, name="head")(hidden))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", loss=rounded, run_eagerly=eager)
    callback, error = fit(model)
    assert error is None
    (found,) = callback.report.diagnoses
    assert marked(rounded)[1] == found.line
    assert "rounded" == found.loss


class Counting(keras.layers.Layer):
    """Adds a loss that is cut."""

    def call(self, inputs):
        """Adds a count of active units."""
        self.add_loss(
            tf.reduce_mean(tf.cast(inputs > 0.0, tf.float32))  # cut
        )
        return inputs


def test_cut_add_loss_beside_a_good_loss():
    """An `add_loss` without any gradient is named as that term."""
    callback, _ = fit(classifier("mse", middle=Counting()))
    (found,) = callback.report.diagnoses
    assert marked(Counting.call)[1] == found.line
    assert "add_loss" == found.loss
    assert "warning" == found.severity


class Spare(keras.Model):
    """Has a layer that nothing calls, with a regulariser."""

    def __init__(self):
        super().__init__()
        self.head = keras.layers.Dense(3)
        self.spare = keras.layers.Dense(3, kernel_regularizer="l2")  # cut
        self.spare.build((None, 4))

    def call(self, inputs):
        """Calls the head only."""
        return self.head(inputs)


def test_unused_layer_with_a_regulariser_is_still_named():
    """L2 moves the kernel of a layer that nothing calls."""
    model = Spare()
    model.compile("sgd", "mse")
    callback, _ = fit(model)
    found = callback.report.diagnoses
    assert {("GG301", marked(Spare)[1])} == {(d.code, d.line) for d in found}
    lost = {path for d in found for path in d.variables}
    assert {"kernel", "bias"} == {path.split("/")[-1] for path in lost}


class Codebook(keras.Model):
    """A manual term trains what the Keras loss reaches only through a cut."""

    def __init__(self):
        super().__init__()
        self.codes = keras.layers.Dense(4, kernel_regularizer="l2")
        self.head = keras.layers.Dense(3)

    def call(self, inputs):
        """Decodes codes whose gradient is stopped."""
        return self.head(tf.stop_gradient(self.codes(inputs)))

    def train_step(self, data):
        """Adds the codes' own term to the Keras loss."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = keras.losses.MeanSquaredError()(y, self(x, training=True))
            loss += tf.reduce_mean(tf.square(self.codes(x) - x))
            loss += sum(self.losses)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_manual_term_is_no_alarm(eager):
    """A term that is no Keras loss counts as training too."""
    model = Codebook()
    model.compile("sgd", run_eagerly=eager)
    callback, error = fit(model)
    assert error is None
    assert () == callback.report.diagnoses


def test_metric_object_as_a_loss():
    """A metric's state carries no gradient; the update is the line."""
    metric = keras.metrics.MeanSquaredError()

    def loss(y_true, y_pred):
        metric.update_state(y_true, y_pred)  # cut
        return metric.result()

    callback, _ = fit(classifier(loss))
    (found,) = callback.report.diagnoses
    assert ("GG118", marked(loss)[1]) == (found.code, found.line)
    assert X.shape[0] == Y.shape[0]


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_metric_of_whole_numbers_as_a_loss(eager):
    """The state of an IoU is integer; what made it so is named."""
    metric = keras.metrics.MeanIoU(2)

    def loss(y_true, y_pred):
        metric.update_state(y_true > 0, y_pred > 0)  # cut
        return 1.0 - metric.result()

    callback, _ = fit(classifier(loss, eager))
    (found,) = callback.report.diagnoses
    assert ("GG102", marked(loss)[1]) == (found.code, found.line)
    assert ("Greater", 4) == (found.op, len(found.variables))
    assert any("AssignVariableOp" in n for n in found.evidence["notes"])


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_one_of_two_losses_is_cut(eager):
    """One message for head and trunk, in model order, naming the loss."""
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8, name="hidden")(inputs)
    outputs = {name: keras.layers.Dense(3, name=name)(hidden) for name in "ab"}
    model = keras.Model(inputs, outputs)
    loss = {"a": "mse", "b": rounded}
    model.compile("sgd", loss=loss, run_eagerly=eager)
    callback, error = fit(model, X, {"a": Y, "b": Y})
    assert error is None
    (found,) = callback.report.diagnoses
    assert ("rounded", marked(rounded)[1]) == (found.loss, found.line)
    expected = ["hidden/kernel", "hidden/bias", "b/kernel", "b/bias"]
    assert expected == list(found.variables)
    assert "warning" == found.severity
    assert any("another loss" in note for note in found.evidence["notes"])


class Recomputed(keras.layers.Layer):
    """A block that is computed once more in the backward pass.

    Args:
        is_cut: Whether it rounds, or rounds with a straight-through estimator.
    """

    def __init__(self, is_cut):
        super().__init__(name="block")
        self.is_cut = is_cut
        self.dense = keras.layers.Dense(6, activation="tanh", name="inner")

    def build(self, shape):
        """Builds the layer within."""
        self.dense.build(shape)

    def quantised(self, inputs):
        """Rounds, and passes the gradient straight through unless cut."""
        levels = tf.round(4.0 * inputs) / 4.0  # cut
        if not self.is_cut:
            levels = inputs + tf.stop_gradient(levels - inputs)
        return self.dense(levels)

    def call(self, inputs):
        """Calls the block by way of `keras.remat`."""
        return keras.remat(self.quantised)(inputs)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_cut_in_a_recomputed_function(eager):
    """The first batch tells: no other data would give a gradient."""
    callback, _ = fit(classifier("mse", eager, middle=Recomputed(True)))
    (found,) = callback.report.diagnoses
    assert marked(Recomputed.quantised) == (found.file, found.line)
    assert ("GG105", 0) == (found.code, found.step)
    assert {"net/hidden/kernel", "net/hidden/bias"} == set(found.variables)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_recomputed_straight_through_estimator_is_healthy(eager):
    """The same block with a gradient."""
    callback, error = fit(classifier("mse", eager, middle=Recomputed(False)))
    assert error is None
    assert "healthy" == callback.report.verdict
