"""What a step that is left out leaves in the logs, metrics and statistics."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback
from tests.fitting import MODES, NAMES, X, Y, classifier

ACTIONS = ["skip", "stop", "raise"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Own(keras.Sequential):
    """A step that reports the loss itself, past the tracker of Keras."""

    def train_step(self, data):
        """One update."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(x, training=True) - y))
        names = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, names), names)
        return {"loss": loss}


def own(eager=False):
    """The small model with that step."""
    keras.utils.set_random_seed(1)
    model = Own([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", "mse", run_eagerly=eager)
    return model


def losses(model, x=X, **arguments):
    """Fits; returns the loss that each batch shows, and the callback."""
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(logs["loss"])
    )
    guard = [GradHealthCallback(every=1, **arguments)] if arguments else []
    model.fit(
        *(x, Y),
        batch_size=4,
        shuffle=False,
        verbose=0,
        callbacks=[look, *guard],
    )
    return seen, *guard


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("action", ACTIONS)
def test_logs_of_good_steps_stay(action, eager):
    """Those of a step of the user's own are what it returned."""
    (expected,) = losses(own(eager))
    found, callback = losses(own(eager), on_nonfinite=action)
    assert min(expected) > 0
    assert expected == found
    assert callback.report.ok


def test_bad_loss_of_an_own_step_is_seen():
    """Also where its gradients are finite."""

    class Bad(Own):
        """Returns NaN."""

        def train_step(self, data):
            """One good update."""
            logs = super().train_step(data)
            return {"loss": logs["loss"] * float("nan")}

    model = Bad([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", "mse")
    _, callback = losses(model, on_nonfinite="skip")
    assert ["nonfinite"] == [d.kind for d in callback.report.diagnoses]


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_steps_after_the_bad_one_change_nothing(mode):
    """Of one execution: weights, statistics and metrics are those before."""
    x = X.copy()
    x[4:8] = np.nan
    found = []
    for length, steps in ((4, 1), (16, 4)):
        keras.utils.set_random_seed(1)
        norm = keras.layers.BatchNormalization()
        model = classifier("mse", middle=norm)
        model.compile(
            "adam",
            "mse",
            metrics=["mae"],
            jit_compile=mode == "xla",
            steps_per_execution=steps,
        )
        model.fit(
            *(x[:length], Y[:length]),
            batch_size=4,
            shuffle=False,
            verbose=0,
            callbacks=[GradHealthCallback(every=1, on_nonfinite="stop")],
        )
        kept = [*model.weights, *model.metrics_variables]
        found.append([np.asarray(variable.value) for variable in kept])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
