"""GG221: NaN or Inf in the batch itself."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import numpy as np
import tensorflow as tf


def inputs(x):
    x = x.copy()
    x[3, 1] = np.nan
    return x


def loss(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_true - y_pred))
"""

RULE = Rule(
    code="GG221",
    name="nonfinite-data",
    kind="nonfinite",
    matches=lambda finding: finding.cause == "data",
    message="the batch already holds NaN or Inf",
    why=(
        "NaN in `x`, `y` or `sample_weight` spreads to what is computed from "
        "it: to the loss and from there to the gradients."
    ),
    help=(
        Remedy(
            text="leave the broken rows out",
            before="model.fit(x, y)",
            after=(
                "whole = np.isfinite(x).all(axis=1)\n"
                "model.fit(x[whole], y[whole])"
            ),
        ),
        Remedy(
            text="or fill in the gaps",
            before="model.fit(x, y)",
            after=("x = np.where(np.isfinite(x), x, 0.0)\nmodel.fit(x, y)"),
        ),
    ),
    bad=_BAD,
    good=_BAD.replace(
        "    return x\n", "    return np.where(np.isfinite(x), x, 0.0)\n"
    ),
)
