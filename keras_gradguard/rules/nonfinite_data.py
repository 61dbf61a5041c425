"""GG221: NaN or Inf in the batch itself."""

from keras_gradguard.rules._rule import Remedy, Rule


def _parts(finding):
    """What of the batch is not finite."""
    known = finding.evidence.get("data", ())
    return [known] if isinstance(known, str) else list(known)


_BAD = """\
import keras
import numpy as np


def inputs(x):
    x = x.copy()
    x[3, 1] = np.nan
    return x


def model():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", name="hidden"),
            keras.layers.Dense(3, name="head"),
        ]
    )
    network.compile("sgd", loss="mse")
    return network
"""

RULE = Rule(
    code="GG221",
    name="nonfinite-data",
    kind="nonfinite",
    matches=lambda finding: finding.cause == "data",
    message="the batch contains NaN or Inf",
    why=(
        "NaN in `x`, `y` or `sample_weight` spreads to the loss and from there "
        "to all gradients."
    ),
    help=(
        Remedy(
            text="drop the rows with NaN or Inf",
            before="model.fit(x, y)",
            after=(
                "def finite(array):\n"
                "    axes = tuple(range(1, array.ndim))\n"
                "    return np.isfinite(array).all(axis=axes)\n"
                "\n"
                "keep = finite(x) & finite(y)\n"
                "model.fit(x[keep], y[keep])"
            ),
            when=lambda finding: "sample_weight" not in _parts(finding),
        ),
        Remedy(
            text="replace missing values",
            before="model.fit(x, y)",
            after="x = np.where(np.isfinite(x), x, 0.0)\nmodel.fit(x, y)",
            when=lambda finding: _parts(finding) == ["x"],
        ),
        Remedy(
            text="give rows with a weight of NaN or Inf the weight zero",
            before="model.fit(x, y, sample_weight=weight)",
            after=(
                "weight = np.where(np.isfinite(weight), weight, 0.0)\n"
                "model.fit(x, y, sample_weight=weight)"
            ),
            when=lambda finding: _parts(finding) == ["sample_weight"],
        ),
    ),
    bad=_BAD,
    good=_BAD.replace(
        "    return x\n", "    return np.where(np.isfinite(x), x, 0.0)\n"
    ),
)
