"""The rows of the step cost: models, and how long their turns are."""

import dataclasses
import functools
from collections.abc import Callable

from benchmarks.compared import models
from benchmarks.compared.contenders import EVERY_STEP, GUARDED

# Turns must hold whole periods of what is done every ten steps.
PERIOD = 10


@dataclasses.dataclass(frozen=True)
class Case:
    """A model whose step is measured.

    Attributes:
        name: Name of the row.
        model: Makes the compiled model.
        batch_size: Rows of a batch.
        steps: Steps of a turn that count, a multiple of `PERIOD`.
        settle: Steps of a turn before them that do not count: the caches of
            the processor are those of the one before. Also a multiple.
        rounds: How many turns everyone takes.
        limits: The bars: ratios to bare by name of the contender.
    """

    name: str
    model: Callable
    batch_size: int
    steps: int
    settle: int
    rounds: int
    limits: dict = dataclasses.field(default_factory=dict)

    def quick(self):
        """Returns a case that shows that it runs, not what it costs."""
        return dataclasses.replace(self, steps=PERIOD, settle=0, rounds=2)


def _limits(default, every_step):
    return {GUARDED: default, EVERY_STEP: every_step}


def _jit(model):
    return functools.partial(model, jit_compile=True)


# The bars of steps of about 1 ms, of about 10 ms, of more, and of XLA or many
# variables in 6 to 10 ms.
_SHORT, _MEDIUM = _limits(1.05, 1.15), _limits(1.03, 1.05)
_LONG = _limits(1.02, 1.03)
_MANY, _TINY_JIT = _limits(1.05, 1.05), _limits(1.05, 1.10)
_TEN = functools.partial(models.weights, 10)
_THOUSAND = functools.partial(models.weights, 1000)
_EAGER = functools.partial(models.tiny, run_eagerly=True)
CASES = (
    Case("tiny", models.tiny, 32, 50, 10, 20, _SHORT),
    Case("dense", models.dense, 256, 20, 10, 10, _MEDIUM),
    Case("transformer", models.transformer, 32, 10, 0, 5, _LONG),
    Case("resnet50", models.resnet50, 8, 10, 0, 5, _LONG),
    Case("tiny-jit", _jit(models.tiny), 32, 50, 10, 20, _TINY_JIT),
    Case("dense-jit", _jit(models.dense), 256, 20, 10, 10, _MANY),
    Case("transformer-jit", _jit(models.transformer), 32, 10, 0, 5, _LONG),
    Case("tiny-eager", _EAGER, 32, 20, 10, 8),
    Case("10-variables", _TEN, 32, 50, 10, 15, _SHORT),
    Case("1000-variables", _THOUSAND, 32, 10, 10, 5, _MANY),
    Case("embedding", models.embedding, 64, 20, 10, 8, _MEDIUM),
)


def case_of(name):
    """Returns the case of a row.

    Args:
        name: Name of the row.
    """
    return {case.name: case for case in CASES}[name]
