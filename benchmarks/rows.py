"""The rows of the table, by name: one file each measures it."""

import dataclasses
import functools

from benchmarks.compared.cases import CASES
from benchmarks.compared.contenders import CONTENDERS
from benchmarks.measures import (
    copies,
    cut,
    first_fit,
    growth,
    memory,
    size,
    starts,
)
from benchmarks.timing.rounds import step_costs


@dataclasses.dataclass(frozen=True)
class Options:
    """How thoroughly to measure.

    Attributes:
        rounds: Rounds of each row; `None` for as many as each needs.
        quick: Whether to show but that it runs.
    """

    rounds: int | None = None
    quick: bool = False


def _step(case, options):
    """Quickly means without the contenders in processes of their own."""
    if options.rounds:
        case = dataclasses.replace(case, rounds=options.rounds)
    if not options.quick:
        return step_costs(case, CONTENDERS)
    near = [who for who in CONTENDERS if not who.is_apart]
    return step_costs(case.quick(), near)


ROWS = {case.name: functools.partial(_step, case) for case in CASES} | {
    "first-fit": first_fit.measure,
    "first-fit-own-step": first_fit.measure_own_step,
    "first-fit-kinds": first_fit.measure_kinds,
    "cut": cut.measure,
    "memory": memory.measure,
    "peak-memory": memory.measure_peak,
    "copies": copies.measure,
    "log-size": size.measure,
    "import": starts.measure_import,
    "tensorboard": starts.measure_tensorboard,
    "parameters": growth.measure_parameters,
    "operations": growth.measure_operations,
    "variables": growth.measure_variables,
}
