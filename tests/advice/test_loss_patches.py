"""Patches of a loss: whether it expects logits, and how it is scaled."""

import sys

import keras
import pytest

from keras_gradguard.advice.fix import file_patches, fixed
from tests.advice.test_layer_patches import modes, module_of, reported
from tests.plain import alone

HEAD = """\
import keras
import tensorflow as tf


def model():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", name="hidden"),
            keras.layers.Dense(3{activation}, name="head"),
        ]
    )
    goal = {loss}
    network.compile("sgd", loss=goal)
    return network
"""
OWN = """\
import keras
import tensorflow as tf


class Own(keras.Model):
    def train_step(self, data):
        inputs, labels = data
        with tf.GradientTape() as record:
            error = tf.reduce_mean(tf.square(labels - self(inputs)))
            if True:
                error = error + 0.0
        trained = self.trainable_variables
        pairs = zip(record.gradient(error, trained), trained)
        self.optimizer.apply_gradients(pairs)
        return {"loss": error}


def model():
    half = {"dtype": "mixed_float16"}
    inputs = keras.Input((4,))
    x = keras.layers.Dense(8, "tanh", name="hidden", **half)(inputs)
    head = keras.layers.Dense(3, name="head", dtype="float32")
    network = Own(inputs, head(x))
    optimizer = keras.optimizers.SGD(0.01)
    network.compile(keras.optimizers.LossScaleOptimizer(optimizer), "mse")
    return network
"""
# The program, the code, and lines of the patch.
SCALED = "self.optimizer.scale_loss(error)"
CASES = {
    "scores": (
        HEAD.format(
            activation="",
            loss="keras.losses.CategoricalCrossentropy(label_smoothing=0.1)",
        ),
        "GG213",
        "goal = keras.losses.CategoricalCrossentropy("
        "label_smoothing=0.1, from_logits=True)",
    ),
    "told_so": (
        HEAD.format(
            activation="",
            loss="keras.losses.BinaryCrossentropy(from_logits=False)",
        ),
        "GG213",
        "goal = keras.losses.BinaryCrossentropy(from_logits=True)",
    ),
    "unscaled": (
        OWN,
        "GG263",
        "scaled = self.optimizer.scale_loss(error)",
    ),
    "scaled_twice": (
        OWN.replace("error + 0.0", SCALED.replace("error", SCALED)),
        "GG264",
        f"error = {SCALED}",
    ),
    "unscaled_twice": (
        OWN.replace("error + 0.0", SCALED).replace(
            "zip(record.gradient(error, trained), trained)",
            "record.gradient(error, trained)\n"
            "        scale = self.optimizer.scale_loss(1.0)\n"
            "        pairs = [(tf.divide(g, scale), v) "
            "for g, v in zip(pairs, trained)]",
        ),
        "GG265",
        "pairs = [(g, v) for g, v in zip(pairs, trained)]",
    ),
}


@pytest.fixture(autouse=True)
def _without_other_tests():
    """The code of another test may have made a loss, too."""
    with alone(sys.modules[__name__]):
        yield


@pytest.mark.filterwarnings("ignore::UserWarning")
@modes
@pytest.mark.parametrize(
    "case", ["scores", "told_so", "unscaled", "scaled_twice", "unscaled_twice"]
)
def test_patch(case, eager, tmp_path):
    """It is one of the user's line, and the patched file has no such fault."""
    source, code, line = CASES[case]
    module = module_of(tmp_path, source)
    report = reported(module, eager)
    told = next(d for d in report.diagnoses if d.code == code)
    (item,) = told.help
    assert item.checked and item.patch.file == module.__file__
    assert line in item.after
    _, new = fixed(module.__file__, file_patches(report)[module.__file__])
    again = module_of(tmp_path, new, "patched_page")
    report = reported(again, eager)
    assert code not in [d.code for d in report.diagnoses]


@pytest.mark.filterwarnings("ignore::UserWarning")
@modes
def test_loss_is_left_as_it_is(eager, tmp_path):
    """A trial takes back what it tells the loss."""
    module = module_of(tmp_path, CASES["scores"][0])
    losses, made = [], keras.losses.CategoricalCrossentropy.__init__

    def note(loss, *args, **kwargs):
        made(loss, *args, **kwargs)
        losses.append(loss)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.losses.CategoricalCrossentropy, "__init__", note)
        reported(module, eager)
    assert losses
    for loss in losses:
        assert loss.from_logits is False
        assert "from_logits" not in loss._fn_kwargs or (
            loss._fn_kwargs["from_logits"] is False
        )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_loss_of_the_users_own_gets_no_patch(tmp_path):
    """A class of the user's may take its arguments otherwise."""
    source = HEAD.format(activation="", loss="Mine()").replace(
        "def model",
        "class Mine(keras.losses.BinaryCrossentropy):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n\n\n"
        "def model",
    )
    report = reported(module_of(tmp_path, source), False)
    patches = [h.patch for d in report.diagnoses for h in d.help]
    assert [None] * len(patches) == patches
