"""Steps of one's own that update other variables than those asked about."""

import keras
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback
from tests.fitting import MODES, NAMES, X, Y, marked


class Pair(keras.Model):
    """Two networks of equal shapes; one of them is asked about."""

    def __init__(self):
        super().__init__()
        self.fast = keras.layers.Dense(3, name="fast")
        self.slow = keras.layers.Dense(3, name="slow")

    def call(self, x):
        """Adds what both say."""
        return self.fast(x) + self.slow(x)

    def train_step(self, data):
        """Asks for the gradient of one, and updates one."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(x) - y))
        self.update(tape, loss)
        return {"loss": loss}


class Mixed(Pair):
    """Gives one network the gradient of the other one."""

    def update(self, tape, loss):
        """Mixes them up."""
        gradients = tape.gradient(loss, self.fast.trainable_variables)
        self.optimizer.apply(gradients, self.slow.trainable_variables)  # cut


class Half(Pair):
    """Trains one of the two networks."""

    def update(self, tape, loss):
        """Leaves the other one out."""
        weights = self.fast.trainable_variables
        gradients = tape.gradient(loss, weights)  # cut
        self.optimizer.apply(gradients, weights)


class FirstOrder(Pair):
    """Moves the slow weights by the gradient of a copy that moves first."""

    def update(self, tape, loss):
        """Sets the copy anew, once its gradient is known."""
        fast, slow = self.fast.trainable_variables, self.slow.trainable_weights
        gradients = tape.gradient(loss, fast)
        self.optimizer.apply(gradients, slow)
        for copy, weight in zip(fast, slow, strict=True):
            copy.assign(weight)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize(
    ("kind", "severity", "name"),
    [
        (Mixed, "warning", "fast"),
        (Half, "note", "slow"),
        (FirstOrder, *[""] * 2),
    ],
)
def test_step_that_updates_others(kind, severity, name, eager):
    """The gradient of one network moves the other, or one is left out."""
    model = kind()
    model.build((None, 4))
    model.compile("sgd", run_eagerly=eager)
    callback = GradHealthCallback(every=1)
    model.fit(X, Y, batch_size=16, epochs=9, verbose=0, callbacks=[callback])
    found = callback.report.diagnoses
    if not severity:
        assert () == found
        return
    (told,) = found
    assert ("GG313", severity) == (told.code, told.severity)
    assert marked(kind.update)[1] == told.line
    assert {f"{name}/kernel", f"{name}/bias"} == {
        "/".join(path.split("/")[-2:]) for path in told.variables
    }
