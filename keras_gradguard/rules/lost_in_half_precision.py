"""GG261: gradients that are too small for float16."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import keras
import tensorflow as tf


def small(y_true, y_pred):
    return 1e-6 * tf.reduce_mean(tf.square(y_true - y_pred), axis=-1)


def model():
    half = {"dtype": "mixed_float16"}
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", name="hidden", **half),
            keras.layers.Dense(3, name="head", **half),
        ]
    )
    network.compile("adam", small, auto_scale_loss=False)
    return network


EPOCHS = 10
"""

RULE = Rule(
    code="GG261",
    name="lost-in-half-precision",
    kind="underflow",
    matches=lambda finding: finding.cause == "float16",
    message="small gradients underflow in float16",
    why=(
        "float16 cannot represent numbers between 0 and 6e-8. On the same "
        "batch, a larger loss scale restored these gradients."
    ),
    help=(
        Remedy(
            text="scale the loss before the gradient is computed",
            before='network.compile("adam", small, auto_scale_loss=False)',
            after=(
                "optimizer = keras.optimizers.LossScaleOptimizer(\n"
                "    keras.optimizers.Adam()\n"
                ")\n"
                "network.compile(optimizer, small)"
            ),
        ),
        Remedy(
            text="compute in bfloat16, which has the range of float32",
            before='half = {"dtype": "mixed_float16"}',
            after='half = {"dtype": "mixed_bfloat16"}',
        ),
    ),
    bad=_BAD,
    good=_BAD.replace(
        '    network.compile("adam", small, auto_scale_loss=False)\n',
        "    optimizer = keras.optimizers.LossScaleOptimizer(\n"
        "        keras.optimizers.Adam()\n"
        "    )\n"
        "    network.compile(optimizer, small)\n",
    ),
)
