"""Steps of a user's own: several optimizers, updates and models."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback
from tests.fitting import MODES, NAMES, X, Y, marked
from tests.ways.alike import (
    SEED,
    alike,
    fitting,
    norms_of,
    one_batch,
    same_norms,
)
from tests.ways.steps import Couple, Halves, Shared, Twice
from tests.ways.steps import adversaries as gan


def compiled(kind, eager, **arguments):
    """Returns a function that makes a compiled model of a kind."""

    def make():
        model = kind()
        if kind is Shared:
            more = [keras.optimizers.SGD(0.1), keras.optimizers.Adam(0.01)]
            arguments["more"] = more
        rate = keras.optimizers.SGD(0.1)
        model.compile(optimizer=rate, run_eagerly=eager, **arguments)
        model.build((None, 4))
        return model

    return make


def twin(make):
    """A model as `alike` makes it, for the tape."""
    keras.utils.set_random_seed(SEED)
    return make()


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_adversaries(eager):
    """The generator's loss gives the discriminator nothing: no alarm."""

    def make():
        return gan(eager=eager)

    _, callback = alike(make, one_batch(X, None))
    model = twin(make)
    (judge, judged), _ = model.losses_of(X)
    names = model.discriminator.trainable_variables
    gradients = judge.gradient(judged, names)
    expected = norms_of(gradients)
    _, (forge, forged) = model.losses_of(X)
    names = model.generator.trainable_variables
    expected = norms_of(forge.gradient(forged, names)) + expected
    same_norms(callback, expected)
    assert {None} == {row.optimizer for row in callback.report.variables}
    assert 0 == callback.report.step
    alike(make, fitting(X, None, batch_size=16, epochs=4))


def rounded(fake):
    """Cuts the generator off."""
    return tf.round(fake)  # cut


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_cut_between_adversaries(eager):
    """The generator alone is cut off, by this line."""
    callback = GradHealthCallback(every=1, on_break="raise")
    with pytest.raises(ValueError):
        gan(rounded, eager).fit(X, verbose=0, callbacks=[callback])
    (found,) = callback.report.diagnoses
    assert ("GG105", *marked(rounded)) == (found.code, found.file, found.line)
    assert all(path.startswith("generator") for path in found.variables)
    assert 4 == len(found.variables)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("kind", [Twice, Shared])
def test_two_updates_of_a_variable(kind, eager):
    """Each update has its own rows, named by optimizer or by number."""
    make = compiled(kind, eager)
    _, callback = alike(make, one_batch())
    model = twin(make)
    known = {Twice: [model.optimizer] * 2, Shared: getattr(model, "more", ())}
    expected = []
    for power, optimizer in zip((2.0, 4.0), known[kind], strict=True):
        gradients, _ = model.gradients_of((X, Y), power)
        expected.append(norms_of(gradients))
        optimizer.apply(gradients, model.trainable_variables)
    rows = callback.report.variables
    names = {Twice: ["optimizer", "optimizer#2"], Shared: ["more/0", "more/1"]}
    assert [row.optimizer for row in rows] == names[kind] * 4
    assert [row.path for row in rows[::2]] == [row.path for row in rows[1::2]]
    same_norms(callback, np.transpose(expected).ravel())
    alike(make, fitting())


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("kind", [Halves, Couple])
def test_one_row_per_variable(kind, eager):
    """Variables that are updated apart are one row each."""
    make = compiled(kind, eager)
    _, callback = alike(make, one_batch())
    model = twin(make)
    if kind is Halves:
        expected = norms_of(model.gradients_of((X, Y), 2.0)[0])
    else:
        expected = []
        for pupil in model.pupils:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(pupil(X) - Y))
            names = pupil.trainable_variables
            expected += norms_of(tape.gradient(loss, names))
    same_norms(callback, expected)
    assert {None} == {row.optimizer for row in callback.report.variables}
    alike(make, fitting())


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
def test_cut_in_a_nested_model(eager):
    """The step of a pupil is hooked as that of its teacher would be."""
    model = Couple(rounded)
    model.compile(run_eagerly=eager)
    callback = GradHealthCallback(every=1, on_break="raise")
    with pytest.raises(ValueError):
        model.fit(X, Y, verbose=0, callbacks=[callback])
    (found,) = callback.report.diagnoses
    assert ("GG105", *marked(rounded)) == (found.code, found.file, found.line)


def test_step_of_a_bad_gradient():
    """The step is counted where `model.optimizer` makes no update."""
    x = np.concatenate([X, X, X])
    x[20] = np.nan
    callback = GradHealthCallback(every=1)
    with pytest.warns(UserWarning, match="GG221"):
        gan().fit(
            x, batch_size=16, shuffle=False, verbose=0, callbacks=[callback]
        )
    (found,) = callback.report.diagnoses
    assert ("GG221", 1) == (found.code, found.step)
