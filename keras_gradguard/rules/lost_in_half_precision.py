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
    message="small gradients become zero in float16",
    why=(
        "float16 holds nothing between 0 and 6e-8. A larger loss scale brought "
        "these elements back on the same batch."
    ),
    help=(
        Remedy(
            text="let the loss be scaled before the gradient is taken",
            before='model.compile("adam", loss, auto_scale_loss=False)',
            after=(
                "optimizer = keras.optimizers.Adam()\n"
                "optimizer = keras.optimizers.LossScaleOptimizer(optimizer)\n"
                "model.compile(optimizer, loss)"
            ),
        ),
        Remedy(
            text="or compute in bfloat16, which has the range of float32",
            before='keras.mixed_precision.set_global_policy("mixed_float16")',
            after='keras.mixed_precision.set_global_policy("mixed_bfloat16")',
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
