"""Thresholds beyond which a gradient is too small or too large.

The presets and their sources:

- `"sagemaker"`: the rule VanishingGradient of Amazon SageMaker Debugger,
  mean |g| below 1e-7 (DLCheck uses the same value).
- `"autotrainer"`: AUTOTRAINER (Zhang et al., ICSE 2021): the first layer's
  norm below 1e-3 of the last one's and below 1e-4, or above 70 times.
- `"deepchecker"`: TheDeepChecker (Ben Braiek and Khomh, 2022): mean |g| below
  1e-6 and halved in a window of 5, above 1e6 and doubled; patience 5.
"""

import dataclasses
import difflib


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """The conditions for vanishing, exploding and underflowing gradients.

    `None` disables a condition. A condition must hold in `patience`
    consecutive records.

    Args:
        patience: Number of records (TheDeepChecker: 5).
        vanishing_mean: Mean absolute gradient of every variable of a layer
            below this (SageMaker Debugger, DLCheck: 1e-7).
        vanishing_decay: And the mean fell at least to this share over the
            window (TheDeepChecker: 0.5).
        vanishing_norm: Norm of a layer below this, and
        vanishing_ratio: below this share of the largest norm among the
            layers after it (AUTOTRAINER: 1e-4 and 1e-3).
        exploding_mean: Mean absolute gradient of a variable above this
            (TheDeepChecker: 1e6).
        exploding_norm: Norm of the first layer above this, and
        exploding_ratio: above so many times the last layer's (AUTOTRAINER:
            70, together with a loss above 1e3).
        exploding_growth: And either of the two grew by this factor over the
            window (TheDeepChecker: 2).
        scale_drops: A dynamic loss scale that had found its level was halved
            more often than this within 500 steps (a level that fits holds
            for some 2,000, after which Keras and PyTorch try a higher one).
        lost_share: Share of a variable's gradient elements that float16
            rounds to zero (Micikevicius et al., "Mixed Precision Training",
            2018, section 3: 5 % of weight gradients were too small for it).
    """

    patience: int = 5
    vanishing_mean: float | None = 1e-7
    vanishing_decay: float | None = None
    vanishing_norm: float | None = 1e-4
    vanishing_ratio: float | None = 1e-3
    exploding_mean: float | None = 1e6
    exploding_norm: float | None = 1e3
    exploding_ratio: float | None = 70.0
    exploding_growth: float | None = 2.0
    scale_drops: float | None = 5
    lost_share: float | None = 0.05


PRESETS = {
    "default": Thresholds(),
    "sagemaker": Thresholds(
        patience=1,
        vanishing_norm=None,
        vanishing_ratio=None,
        exploding_mean=None,
        exploding_ratio=None,
    ),
    "autotrainer": Thresholds(
        patience=1,
        vanishing_mean=None,
        exploding_mean=None,
        exploding_norm=0.0,
        exploding_growth=None,
    ),
    "deepchecker": Thresholds(
        vanishing_mean=1e-6,
        vanishing_decay=0.5,
        vanishing_norm=None,
        vanishing_ratio=None,
        exploding_ratio=None,
    ),
}


def thresholds_of(given):
    """Returns the `Thresholds` for an argument.

    Args:
        given: Name of a preset, a `Thresholds`, or a dict of some of its
            fields; its key `"preset"` names the preset to start from.

    Raises:
        ValueError: If it is none of these, or a value is not a number.
    """
    if isinstance(given, Thresholds):
        return given
    if isinstance(given, str):
        return _preset(given)
    if not isinstance(given, dict):
        raise ValueError(
            "`thresholds` must be the name of a preset or a dict such as "
            f"{{'patience': 3}}. Received: thresholds={given!r}"
        )
    given = dict(given)
    preset = _preset(given.pop("preset", "default"))
    known = [field.name for field in dataclasses.fields(Thresholds)]
    for name, value in given.items():
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {close[0]!r}" if close else ""
            raise ValueError(
                f"`thresholds` has no entry {name!r}{hint}. Valid entries: "
                f"{', '.join(known)}"
            )
        _check(name, value)
    return dataclasses.replace(preset, **given)


def _preset(name):
    if name not in PRESETS:
        raise ValueError(
            f"`thresholds` has no preset {name!r}. Valid presets: "
            f"{', '.join(PRESETS)}"
        )
    return PRESETS[name]


def _check(name, value):
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if name == "patience":
        if not isinstance(value, int) or not is_number or value < 1:
            raise ValueError(
                "`thresholds['patience']` must be a positive integer, a number "
                f"of records. Received: {value!r}"
            )
    elif value is not None and (not is_number or not value >= 0):
        raise ValueError(
            f"`thresholds[{name!r}]` must be a non-negative number, or None "
            f"to disable it. Received: {value!r}"
        )
