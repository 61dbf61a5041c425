"""How the cost of the guard grows, and whether in proportion."""

import functools
import gc

import numpy as np

from benchmarks.compared import models
from benchmarks.compared.cases import PERIOD, Case
from benchmarks.compared.contenders import Contender
from benchmarks.figure import Figure
from benchmarks.measures.cut import seconds_to_name
from benchmarks.timing.bandwidth import bytes_a_second
from benchmarks.timing.lane import Lane
from keras_gradguard import GradHealthCallback

VARIABLES = (10, 100, 1_000, 10_000)
PARAMETERS = (10**4, 10**5, 10**6, 10**7, 10**8)
OPERATIONS = (100, 300, 1_000, 3_000, 10_000)
MOST_EXPONENT = 1.1
SETTLE = 3
ROUNDS = 7
UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}


def _is_due(step):
    return step // PERIOD % 2 == 1


BARE = Contender("bare")
GUARDED = Contender(
    "guarded", lambda log_dir, _: [GradHealthCallback(log_dir, _is_due)]
)


def costs(model, batch_size, rounds):
    """Measures what the guard adds to a step, in seconds.

    Args:
        model: Makes the model.
        batch_size: Rows of a batch.
        rounds: How many turns everyone takes.

    Returns:
        `(plain, record)`: of a step without a record and of one with.
    """
    case = Case("growth", model, batch_size, 2 * PERIOD, 0, rounds)
    lanes = [Lane(who.trainer(case)) for who in (BARE, GUARDED)]
    try:
        turns = [
            [lane.take_turn(case.steps) for lane in lanes]
            for _ in range(rounds + 1)
        ]
    finally:
        for lane in lanes:
            lane.close()
        gc.collect()
    # Half of each turn is without records, half with; the first one traces.
    blocks = np.reshape(turns[1:], (rounds, 2, 2, PERIOD))
    bare, guarded = blocks[..., SETTLE:].mean(axis=-1).swapaxes(0, 1)
    return np.median(guarded - bare, axis=0).tolist()


def measure_variables(options):
    """Measures the step cost against the number of variables.

    Args:
        options: The `Options`.
    """
    return _step_costs("variables", "variable", models.weights, 8, options)


def measure_parameters(options):
    """Measures the step cost against the number of parameters.

    Args:
        options: The `Options`.
    """
    figures = _step_costs("parameters", "parameter", models.square, 8, options)
    bandwidth = bytes_a_second()
    points = tuple(
        (number, 4e3 * number / bandwidth) for number, _ in figures[0].points
    )
    limit = Figure(
        "parameters",
        "physical limit",
        4e9 / bandwidth,
        "ns per parameter",
        note=f"each gradient read once at {bandwidth / 1e9:.1f} GB/s",
        points=points,
    )
    return [*figures, limit]


def _step_costs(row, noun, model, batch_size, options):
    numbers = VARIABLES if row == "variables" else PARAMETERS
    numbers = numbers[:2] if options.quick else numbers
    rounds = 2 if options.quick else options.rounds or ROUNDS
    seconds = [
        costs(functools.partial(model, number), batch_size, rounds)
        for number in numbers
    ]
    return [
        fitted(row, f"added to a step {kind} record", noun, numbers, column)
        for kind, column in zip(
            ("without", "with"), zip(*seconds, strict=True), strict=True
        )
    ]


def measure_operations(options):
    """Measures the time of a diagnosis against the number of operations.

    Args:
        options: The `Options`.
    """
    row, what, noun = "operations", "gradients to named line", "operation"
    numbers = OPERATIONS[:2] if options.quick else OPERATIONS
    # What is imported for the first diagnosis belongs to none of them.
    seconds_to_name(models.chain(2))
    seconds = []
    for number in numbers:
        found = seconds_to_name(models.chain(number))
        gc.collect()
        if found is None:
            note = f"the line was not named at {number} operations"
            figure = Figure(row, what, None, "s", note=note)
            return [figure.held_to(MOST_EXPONENT)]
        seconds.append(found)
    return [fitted(row, what, noun, numbers, seconds)]


def fitted(row, what, noun, numbers, seconds):
    """Returns the slope of a cost, held to be no more than linear.

    Args:
        row: Name of the row.
        what: What is measured.
        noun: What is counted, in the singular.
        numbers: How many there were of it.
        seconds: What each of them cost.
    """
    slope = float(np.polyfit(numbers, seconds, 1)[0])
    scale = next(unit for unit in UNITS if abs(slope) < 1e3 * UNITS[unit])
    known = [(n, s) for n, s in zip(numbers, seconds, strict=True) if s > 0]
    exponent = None
    if len(known) > 1:
        exponent = float(np.polyfit(*np.log(known).T, 1)[0])
    explained = np.corrcoef(numbers, seconds)[0, 1] ** 2
    note = "lost in noise" if exponent is None else f"exponent {exponent:.2f}"
    last = f"{1e3 * seconds[-1]:.3g} ms at {numbers[-1]:,}"
    return Figure(
        row,
        what,
        slope / UNITS[scale],
        f"{scale} per {noun}",
        bar=f"exponent at most {MOST_EXPONENT:g}",
        met=exponent is not None and exponent <= MOST_EXPONENT,
        note=f"{note}; a line explains {explained:.1%}; {last}",
        points=tuple(
            (n, 1e3 * s) for n, s in zip(numbers, seconds, strict=True)
        ),
    )
