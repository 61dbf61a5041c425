"""Every loss of `keras.losses`, by class, by function and by string."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradGuardLoss


def takes_two(function):
    """Whether it is a loss of two arguments, all others with a default."""
    names = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
    ]
    return names == ["y_true", "y_pred"]


def is_known(name):
    """Whether Keras itself takes the name for a loss."""
    try:
        return keras.losses.get(name) is not None
    except (ValueError, TypeError):
        return False


_generator = np.random.default_rng(3)
CLASSES = sorted(
    name
    for name, kind in vars(keras.losses).items()
    if isinstance(kind, type) and issubclass(kind, keras.losses.Loss)
    if kind is not keras.losses.Loss
)
FUNCTIONS = sorted(
    name
    for name, function in vars(keras.losses).items()
    if inspect.isfunction(function) and takes_two(function)
)
assert len(CLASSES) >= 20 and len(FUNCTIONS) >= 20
KNOWN = [name for name in {*CLASSES, *FUNCTIONS} if is_known(name)]
CASES = [
    *(("class", name) for name in CLASSES),
    *(("function", name) for name in FUNCTIONS),
    *(("string", name) for name in sorted(KNOWN)),
]
SHARES = np.float32([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2], [0.2, 0.6, 0.2]])
WEIGHTS = np.float32([0.5, 2.0, 1.0])


def data(name):
    """Targets and predictions that a loss of this name takes."""
    name = name.lower().replace("_", "")
    if "sparse" in name:
        return np.array([2, 0, 1]), SHARES
    if name == "ctc":
        logits = _generator.normal(size=(3, 6, 4)).astype("float32")
        return np.array([[1, 2], [3, 1], [2, 2]]), logits
    if name == "circle":
        vectors = _generator.normal(size=(3, 3)).astype("float32")
        length = np.linalg.norm(vectors, axis=-1, keepdims=True)
        return np.array([0, 1, 0]), vectors / length
    if "crossentropy" in name or "kl" in name or "kull" in name:
        return np.eye(3, dtype="float32")[[2, 0, 1]], SHARES
    signs = np.sign(_generator.normal(size=(3, 3))).astype("float32")
    return (signs if "hinge" in name else np.abs(signs * SHARES.T)), SHARES


def given(how, name):
    """The loss as a user gives it to `compile`."""
    if how == "class":
        return getattr(keras.losses, name)()
    return getattr(keras.losses, name) if how == "function" else name


def compiled(loss):
    """A model that is only its loss, to call as `compile` does."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Identity()])
    model.compile("sgd", loss)
    return model


def value_and_gradient(loss, targets, scores, weights, is_graph):
    """Value and gradient of the loss, as a training step computes them."""
    model = compiled(loss)

    def run(scores):
        with tf.GradientTape() as tape:
            tape.watch(scores)
            value = model.compute_loss(
                y=tf.constant(targets),
                y_pred=scores,
                sample_weight=weights,
            )
        return value, tape.gradient(value, scores)

    return (tf.function(run) if is_graph else run)(tf.constant(scores))


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize(("how", "name"), CASES)
def test_same_value_and_gradient(how, name, graph):
    """To the last bit, weighted and not."""
    targets, scores = data(name)
    for weights in (None, WEIGHTS):
        bare, guarded = (
            value_and_gradient(loss, targets, scores, weights, graph)
            for loss in (given(how, name), GradGuardLoss(given(how, name)))
        )
        for expected, found in zip(bare, guarded, strict=True):
            assert expected is not None
            assert expected.dtype == found.dtype
            np.testing.assert_array_equal(expected, found)


@pytest.mark.parametrize(("how", "name"), CASES)
def test_saves_and_loads(how, name, tmp_path):
    """By config and inside a model that is saved."""
    targets, scores = data(name)
    loss = GradGuardLoss(given(how, name), on_break="warn")
    config = loss.get_config()
    again = GradGuardLoss.from_config(config)
    assert config == again.get_config()
    assert (loss.name, loss.reduction) == (again.name, again.reduction)
    model = compiled(loss)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras").loss
    assert isinstance(loaded, GradGuardLoss)
    expected = loss(targets, tf.constant(scores))
    for copy in (again, loaded):
        np.testing.assert_array_equal(expected, copy(targets, scores))
