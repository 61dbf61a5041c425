"""Fits whose batches differ in size: traced for what a bare step is."""

import keras
import pytest

from tests.fitting import X, Y
from tests.ways.alike import alike

# Of 16 rows; those that do not divide leave a short batch behind.
LIVES = {
    "any-then-one": (6, 8),
    "one-then-any": (8, 6),
    "one-then-other": (16, 8),
    "back-and-forth": (16, 5, 4, 16),
}


class Seen(keras.layers.Layer):
    """Notes for how many rows it is traced, `None` for any number."""

    def __init__(self, note):
        super().__init__()
        self._note = note

    def call(self, inputs):
        """Lets the inputs through."""
        self._note(inputs.shape[0])
        return inputs


@pytest.mark.parametrize("first", ["guarded", "bare"])
@pytest.mark.parametrize("life", LIVES, ids=str)
def test_traced_for_the_same_sizes(life, first):
    """The step at hand is for any size once it has seen two."""
    seen = []

    def make():
        sizes = []
        seen.append(sizes)
        hidden = keras.layers.Dense(8, activation="gelu")
        middle = [Seen(sizes.append), keras.layers.BatchNormalization()]
        network = [keras.Input((4,)), hidden, *middle, keras.layers.Dense(3)]
        model = keras.Sequential(network)
        model.compile("adam", "mse")
        return model

    def train(model, callbacks):
        known = {"epochs": 2, "verbose": 0}
        losses = []
        for number, size in enumerate(LIVES[life]):
            is_bare = first == "bare" and number == 0
            own = [] if is_bare else callbacks
            done = model.fit(X, Y, batch_size=size, callbacks=own, **known)
            losses += done.history["loss"]
        return losses

    alike(make, train)
    bare, guarded = map(set, seen)
    assert bare == guarded != set()
