"""A `tf.function` traced while Keras builds has stand-ins for the weights."""

import keras
import pytest
import tensorflow as tf

from keras_gradguard import watch
from tests.fitting import MODES, NAMES, X, Y, fit, marked


def block(is_built):
    """Returns a layer whose inner layer is called in a `tf.function`.

    Args:
        is_built: Whether the inner layer has its weights before that.
    """

    class Block(keras.layers.Layer):
        """Calls one layer, and has another one that it never calls."""

        def __init__(self):
            super().__init__(name="block")
            self.inner = keras.layers.Dense(5, name="inner")
            self.spare = keras.layers.Dense(5, name="spare")  # spare
            self.spare.build((None, 4))
            if is_built:
                self.inner.build((None, 4))

        @tf.function  # cut
        def call(self, inputs):
            """Calls a helper, so that its line is not that of the trace."""
            return self.helped(inputs)

        def helped(self, inputs):
            """Calls the inner layer."""
            return self.inner(inputs)

    return Block()


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("is_built", MODES, ids=["not built", "built"])
def test_stand_ins_are_told_from_layers_that_are_not_called(is_built, eager):
    """The function is named for the one, the declaration for the other."""
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(3, name="head")(block(is_built)(inputs))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse", run_eagerly=eager)
    callback, error = fit(model)
    assert error is None
    found = {(d.code, d.line): d for d in callback.report.diagnoses}
    spare = ("GG301", marked(block, "# spare")[1])
    early = ("GG307", marked(block)[1])
    assert ({spare} if is_built else {spare, early}) == set(found)
    assert all("spare" in path for path in found[spare].variables)
    if not is_built:
        assert ["block/inner/kernel", "block/inner/bias"] == list(
            found[early].variables
        )


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_stand_ins_in_a_loop(eager):
    """No tape asks about a function without a variable; it is seen there."""
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(3, name="head")(block(False)(inputs))
    model = keras.Model(inputs, outputs)
    optimizer = keras.optimizers.SGD()

    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(X) - Y))
        variables = model.trainable_variables
        gradients = tape.gradient(loss, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    step = step if eager else tf.function(step)
    with watch(model, every=1) as health:
        step()
        health.step()
    found = {d.code: d for d in health.report.diagnoses}
    assert {"GG301", "GG307"} == set(found)
    assert marked(block)[1] == found["GG307"].line
    assert 2 == len(found["GG307"].variables)
