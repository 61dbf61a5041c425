"""Variables, layers and metrics that are made inside of a training step."""

import keras
import pytest
import tensorflow as tf

from keras_gradguard import diagnose
from tests.fitting import MODES, NAMES, X, Y, classifier, fit, marked

REFUSED = "only supports singleton tf.Variables"


def variable_of_prediction(y_true, y_pred):
    """Begins with the prediction, and forgets where it came from."""
    kept = tf.Variable(y_pred)  # cut
    return tf.reduce_mean(tf.square(y_true - kept))


def keras_variable(y_true, y_pred):
    """The same with a variable of Keras."""
    kept = keras.Variable(y_pred)  # cut
    return tf.reduce_mean(tf.square(y_true - kept))


def assigned(y_true, y_pred):
    """Begins with zeros, so the line that assigns cuts."""
    kept = tf.Variable(tf.zeros(tf.shape(y_true)), shape=(None, 3))
    kept.assign(y_pred)  # cut
    return tf.reduce_mean(tf.square(y_true - kept))


def metric(y_true, y_pred):
    """A metric that is made for each batch."""
    overlap = keras.metrics.BinaryIoU(threshold=0.5)
    overlap.update_state(y_true > 0, y_pred)  # cut
    return 1.0 - overlap.result()


CUTS = {
    variable_of_prediction: "GG118",
    keras_variable: "GG118",
    assigned: "GG118",
    metric: "GG102",
}


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("loss", CUTS, ids=lambda loss: loss.__name__)
def test_state_made_in_a_loss_cuts(loss, eager):
    """The same line and cause in `fit` and in `diagnose`."""
    for look in (fit, lambda model: (diagnose(model, X, Y), None)):
        seen, _ = look(classifier(loss, eager))
        (found,) = getattr(seen, "report", seen).diagnoses
        assert CUTS[loss] == found.code
        assert marked(loss) == (found.file, found.line)


def constant(y_true, y_pred):
    """A variable that keeps nothing of the step."""
    weight = tf.Variable(1.0)
    return tf.reduce_mean(tf.square(y_true - weight * y_pred))


def mean(y_true, y_pred):
    """A metric for display."""
    keras.metrics.Mean().update_state(y_pred)
    return tf.reduce_mean(tf.square(y_true - y_pred))


class OwnOptimizer(keras.Model):
    """Makes its optimizer anew in each step."""

    def __init__(self, loss):
        super().__init__()
        self.head = keras.layers.Dense(3)
        self.compile(loss=loss)

    def call(self, inputs):
        """The forward pass."""
        return self.head(inputs)

    def train_step(self, data):
        """One step."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x))
        gradients = tape.gradient(loss, self.trainable_variables)
        optimizer = keras.optimizers.Adam()
        optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


class DenseInCall(keras.layers.Layer):
    """Makes a layer in each call."""

    def call(self, inputs):
        """The forward pass."""
        return keras.layers.Dense(8)(inputs)


@pytest.mark.parametrize(
    "make",
    [
        lambda: classifier(constant),
        lambda: classifier(mean),
        lambda: OwnOptimizer("mse"),
        lambda: classifier("mse", middle=DenseInCall()),
    ],
    ids=["variable", "metric", "optimizer", "layer"],
)
def test_what_keeps_nothing_cuts_nothing(make):
    """TensorFlow refuses it in the same words, and it is no broken gradient."""
    callback, error = fit(make())
    assert REFUSED in str(error)
    assert not hasattr(error, "__notes__")
    assert () == callback.report.diagnoses
    with pytest.raises(ValueError, match=REFUSED):
        diagnose(make(), X, Y)


def kept_beside(y_true, y_pred):
    """Trains by its second term only."""
    kept = tf.Variable(tf.reduce_mean(2.0 * y_pred), trainable=False)  # cut
    return kept + tf.reduce_mean(tf.square(y_true - y_pred))


def test_what_is_kept_is_told_with_the_refusal():
    """Such a variable is refused too, but it does cut."""
    callback, error = fit(classifier(kept_beside))
    assert REFUSED in str(error)
    assert len(error.__notes__) == 1
    for report in (callback.report, diagnose(classifier(kept_beside), X, Y)):
        (found,) = report.diagnoses
        assert ("GG119", marked(kept_beside)[1]) == (found.code, found.line)
