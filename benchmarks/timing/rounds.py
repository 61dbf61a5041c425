"""Contenders take turns, and are compared within each round."""

import contextlib
import dataclasses
import gc

import numpy as np

from benchmarks.compared.contenders import EVERY_STEP, GUARDED
from benchmarks.figure import Figure, spread
from benchmarks.timing.alone import ApartLane
from benchmarks.timing.lane import Lane, LaneFailed


def take_turns(case, contenders):
    """Lets contenders train turn by turn.

    Args:
        case: The `Case`.
        contenders: `Contender`s, in the order of their turns.

    Returns:
        `(seconds, failures)`: the mean seconds of a step in each round by
        name, and what ended the training of those that are not among them.
    """
    seconds, failures = {}, {}
    number = case.settle + case.steps
    with contextlib.ExitStack() as stack:
        lanes = {}
        for contender in contenders:
            make = ApartLane if contender.is_apart else _lane
            lanes[contender.name] = lane = make(case, contender)
            stack.callback(lane.close)
        failures |= _trace(lanes, number)
        for _ in range(case.rounds):
            for name in [name for name in lanes if name not in failures]:
                try:
                    cycles = lanes[name].take_turn(number)
                except LaneFailed as failure:
                    failures[name] = str(failure)
                    seconds.pop(name, None)
                    continue
                mean = float(np.mean(cycles[case.settle :]))
                seconds.setdefault(name, []).append(mean)
    # The models of this row would else be swept up in the turns of the next.
    gc.collect()
    return seconds, failures


def _trace(lanes, number):
    """Lets everyone take a turn that does not count, and trace in it.

    Only here processes may run at the same time: nobody looks at the clock.
    """
    failures = {}
    apart = {n: a for n, a in lanes.items() if isinstance(a, ApartLane)}
    for lane in apart.values():
        lane.begin_turn(number)
    for name, lane in lanes.items():
        try:
            if name in apart:
                lane.end_turn()
            else:
                lane.take_turn(number)
        except LaneFailed as failure:
            failures[name] = str(failure)
    return failures


def _lane(case, contender):
    return Lane(contender.trainer(case))


def step_costs(case, contenders):
    """Measures a row of the step cost.

    Args:
        case: The `Case`.
        contenders: `Contender`s; whom they are compared with is among them.

    Returns:
        A list of `Figure`s, one for each contender.
    """
    seconds, failures = take_turns(case, contenders)
    figures = {
        contender.name: _figure(case, contender, seconds, failures)
        for contender in contenders
    }
    guards = [figures.get(name) for name in (GUARDED, EVERY_STEP)]
    return [
        _against_guards(figure, guards) if _is_peer(figure.what) else figure
        for figure in figures.values()
    ]


def _figure(case, contender, seconds, failures):
    name, reference = contender.name, contender.against
    absent = [n for n in (name, reference) if n not in seconds]
    if absent:
        note = f"does not run: {failures[absent[0]]}"
        figure = Figure(case.name, name, None, note=note)
    else:
        own, bare = np.array(seconds[name]), np.array(seconds[reference])
        figure = Figure(
            case.name,
            name,
            **spread(own / bare),
            step_ms=1e3 * float(np.median(own)),
            note=f"against {reference}" if reference != "bare" else "",
        )
    return figure.held_to(case.limits.get(name))


def _is_peer(name):
    return not name.startswith(("bare", GUARDED))


def _against_guards(peer, guards):
    """Returns the figure of a peer, held to be slower than the guard."""
    known = [guard for guard in guards if guard and guard.value is not None]
    if peer.value is None or not known:
        return peer
    slower = [guard.what for guard in known if guard.value >= peer.value]
    notes = [peer.note, *(f"{name} is slower" for name in slower)]
    return dataclasses.replace(
        peer,
        bar="guard faster",
        met=not slower,
        note="; ".join(filter(None, notes)),
    )
