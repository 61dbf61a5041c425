"""Variables that no loss depends on, one card for one cause."""

import keras
import numpy as np
import pytest

from keras_gradguard import GradHealthCallback
from tests.fitting import MODES, NAMES, X, Y, marked


def backbone():
    """A model of four layers, as a hub hands it out."""
    inputs = keras.Input((4,))
    hidden = inputs
    for name in ("stem", "one", "two", "norm"):
        hidden = keras.layers.Dense(6, name=name)(hidden)
    return keras.Model(inputs, hidden, name="backbone")


class Classifier(keras.Model):
    """Uses a backbone, as a whole or only its first layer."""

    def __init__(self, is_whole):
        super().__init__(name="classifier")
        self.is_whole = is_whole
        self.backbone = backbone()
        self.head = keras.layers.Dense(3, name="head")

    def call(self, inputs):
        """Returns the scores."""
        if self.is_whole:
            return self.head(self.backbone(inputs))
        return self.head(self.backbone.get_layer("stem")(inputs))  # cut


def report_of(model, eager):
    """Trains for one epoch."""
    model.compile("sgd", "mse", run_eagerly=eager)
    callback = GradHealthCallback()
    model.fit(X, Y, batch_size=4, verbose=0, callbacks=[callback])
    return callback.report


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_model_of_which_one_layer_is_called(eager):
    """One card names the model, at the line of the call."""
    with pytest.warns(UserWarning, match="GG301"):
        report = report_of(Classifier(False), eager)
    (told,) = report.diagnoses
    start = told.evidence["snippet_start"]
    assert told.snippet[told.line - start].endswith("# cut")
    assert (told.layer, len(told.variables)) == ("backbone", 6)
    assert "only `stem` of `backbone`" in told.evidence["notes"][0]


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_model_that_is_called_as_a_whole(eager):
    """Every layer trains."""
    report = report_of(Classifier(True), eager)
    assert report.verdict == "healthy"
    assert np.all([row.norm > 0 for row in report.variables])


class Noisy(keras.layers.Layer):
    """Makes its kernel once, of two weights."""

    def build(self, shape):
        shape = (shape[-1], 3)
        self.mean = self.add_weight(shape=shape, name="mean")
        self.spread = self.add_weight(shape=shape, name="spread")
        self.draw(keras.random.normal(shape))

    def draw(self, noise):
        """Mixes them."""
        self.kernel = self.mean + self.spread * noise  # cut

    def call(self, inputs):
        """Multiplies by what is there."""
        return keras.ops.matmul(inputs, self.kernel)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_tensor_that_was_computed_in_build(eager):
    """One card for all layers, at the line that computes the tensor."""
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(4)(inputs)
    outputs = [Noisy(name=name)(hidden) for name in ("left", "right")]
    model = keras.Model(inputs, keras.layers.Add()(outputs))
    with pytest.warns(UserWarning, match="GG305"):
        report = report_of(model, eager)
    (told,) = report.diagnoses
    assert (told.code, told.line) == ("GG305", marked(Noisy.draw)[1])
    assert {"left/mean", "left/spread", "right/mean", "right/spread"} == set(
        told.variables
    )
