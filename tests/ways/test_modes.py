"""Eager, XLA, and several steps in one call of the train function."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback
from keras_gradguard.backend.tensorflow.tracing.restore import is_examining
from tests.fitting import X, Y, classifier, marked
from tests.ways.alike import (
    SEED,
    alike,
    fitting,
    norms_of,
    one_batch,
    same_norms,
    tape_norms,
)

MODES = {
    "graph": {},
    "eager": {"run_eagerly": True},
    "xla": {"jit_compile": True},
    "three": {"steps_per_execution": 3},
    "eager three": {"run_eagerly": True, "steps_per_execution": 3},
    "xla three": {"jit_compile": True, "steps_per_execution": 3},
}


def makes(mode, loss="mse"):
    """Returns a function that makes a model for a mode."""

    def make():
        model = classifier(loss)
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        model.compile(optimizer, loss, metrics=["mae"], **MODES[mode])
        return model

    return make


@pytest.mark.parametrize("mode", MODES)
def test_same_bits_and_norms(mode):
    """One batch of 16 for the norms; seven steps of 5 for the bits."""
    _, callback = alike(makes(mode), one_batch())
    same_norms(callback, tape_norms(makes(mode)))
    alike(makes(mode), fitting(batch_size=5, epochs=2))


@pytest.mark.parametrize("mode", MODES)
def test_every_step_is_seen(mode):
    """`grad_norm` is the mean over all steps, not over the last of each N."""
    keras.utils.set_random_seed(SEED)
    model = makes(mode)()
    norms = []
    for start in range(0, 16, 3):
        x, y = X[start : start + 3], Y[start : start + 3]
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x) - y))
        gradients = tape.gradient(loss, model.trainable_variables)
        norms.append(np.linalg.norm(norms_of(gradients)))
        model.optimizer.apply(gradients, model.trainable_variables)
    keras.utils.set_random_seed(SEED)
    model = makes(mode)()
    history = model.fit(
        X,
        Y,
        batch_size=3,
        shuffle=False,
        verbose=0,
        callbacks=[GradHealthCallback(every=1, log_norm=True)],
    )
    found = history.history["grad_norm"]
    np.testing.assert_allclose(found, [np.mean(norms)], rtol=1e-5)


@pytest.mark.parametrize("action", ["warn", "skip"])
@pytest.mark.parametrize("mode", MODES)
def test_bad_step_in_the_middle(mode, action):
    """The second step of five is named, and its data; `skip` leaves it out."""
    # XLA with several steps keeps no batch of a size that changes.
    x = X[:15].copy()
    x[4, 2] = np.inf
    model = makes(mode)()
    callback = GradHealthCallback(every=1, on_nonfinite=action)
    with pytest.warns(UserWarning, match="GG221"):
        model.fit(
            x,
            Y[:15],
            batch_size=3,
            shuffle=False,
            verbose=0,
            callbacks=[callback],
        )
    (found,) = callback.report.diagnoses
    assert ("GG221", 1) == (found.code, found.step)
    is_finite = all(np.isfinite(w).all() for w in model.get_weights())
    assert (action == "skip") == is_finite


def hard(y_true, y_pred):
    """A threshold on half of the loss."""
    kept = tf.cast(y_pred > 0.0, tf.float32)  # cut
    return tf.reduce_mean(tf.square(y_true - kept), axis=-1)


@pytest.mark.parametrize("mode", MODES)
def test_cut(mode):
    """The line of a cut is the same in each mode."""
    model = makes(mode, hard)()
    callback = GradHealthCallback(every=1)
    with pytest.raises(ValueError, match="GG102"):
        model.fit(X, Y, batch_size=4, verbose=0, callbacks=[callback])
    (found,) = callback.report.diagnoses
    assert marked(hard) == (found.file, found.line)
    assert "_run" != model.train_function.__name__


@pytest.mark.parametrize("steps", [1, 5])
def test_no_further_trace(steps):
    """A healthy step is traced once, and never more than without the guard.

    Variables made in the first trace cost a second one, so those of Adam are
    made outside of it, and those of the guard.
    """

    class Counted(keras.Model):
        """Counts how often its step is called, that is traced."""

        count = 0

        def train_step(self, data):
            """As Keras' own."""
            # To see the losses of such a step the guard looks at it once.
            Counted.count += not is_examining()
            return super().train_step(data)

    counts = []
    for callbacks in ([], [GradHealthCallback(every=1)]):
        body = classifier("mse")
        model = Counted(body.inputs, body.outputs)
        model.compile("adam", "mse", steps_per_execution=steps)
        Counted.count = 0
        model.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=callbacks)
        counts.append(Counted.count)
    bare, guarded = counts
    assert 1 == guarded <= bare
