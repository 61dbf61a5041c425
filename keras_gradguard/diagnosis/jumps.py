"""Losses that jump where a condition on the prediction flips.

A step function, such as `sign` or `round`, flips where its value changes.

The height is measured: the loss is run a little to each side of the flip,
at three distances. A jump stays as it is, everything else shrinks.
"""

import collections
import dataclasses
import itertools

import numpy as np

from keras_gradguard.diagnosis.flips import FlipSearch
from keras_gradguard.graph.ops import (
    Context,
    is_condition,
    is_step_function,
)
from keras_gradguard.graph.trace import LossFailed
from keras_gradguard.model.layers import is_loss_call
from keras_gradguard.records.finding import Finding
from keras_gradguard.source.frames import (
    op_place,
    place_at,
    user_place,
)

# A formula that switches to its own series differs by less, and nobody
# minds: a jump counts from this share of the loss's own size on.
_LEAST_JUMP = 1e-4
# How much a jump may differ from one distance to the next, which is a tenth.
_SPREAD = 0.2
# How much of a jump must be due to the condition that is accused.
_LEAST_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class Jump:
    """A measured jump.

    Args:
        height: The largest change of one value of the loss.
        switch: The `Flip` it happens at.
        runs: The `Run`s nearest to it, where the condition is true first.
        signs: The signs for `Flip.side` of the first of them.
    """

    height: float
    switch: object
    runs: tuple
    signs: np.ndarray


def measured_jump(ways, switch):
    """Returns the `Jump` at a flip, `None` if it cannot be measured.

    Its height is 0.0 where the loss is continuous.

    Args:
        ways: The `FlipSearch` that led there.
        switch: The `Flip`.
    """
    found = None
    for signs in _patterns(switch):
        steps = []
        for width in switch.widths:
            runs = [ways.run(switch.side(width, s)) for s in (signs, -signs)]
            if None in runs or runs[0].values.shape != runs[1].values.shape:
                break
            steps.append(runs[0].values - runs[1].values)
        if len({step.shape for step in steps}) > 1 or len(steps) < 3:
            continue
        height = _constant_part(ways.first, steps, runs)
        if height is None:
            continue
        found = Jump(height, switch, tuple(runs), signs)
        if height:
            break
    return found


def depends_on_condition(subject, jump, key):
    """Whether the loss jumps because of this very condition.

    Others may flip at the same prediction: this one alone is flipped.

    Args:
        subject: The `LossRun`.
        jump: The `Jump`.
        key: Key of the condition in `Run.bools` or `Run.steps`.
    """
    prediction = jump.switch.side(jump.switch.widths[-1], jump.signs)
    other = _asked(jump.runs[1], key)
    try:
        flipped = subject.run(prediction, forced={key: other}).values
    except LossFailed:
        return False
    if other is None or flipped.shape != jump.runs[0].values.shape:
        return False
    change = np.abs(flipped - jump.runs[0].values)
    return bool((change > _LEAST_SHARE * jump.height).any())


def _asked(run, key):
    """What a condition or a step function came to, `None` if not asked."""
    return run.bools.get(key, run.steps.get(key))


def _patterns(switch):
    """Which side each unit goes to: first all to where it is true."""
    toward = switch.toward_true
    yield toward
    if toward.ndim:
        yield np.abs(toward)
        random = np.random.default_rng(0)
        yield toward * random.choice([-1.0, 1.0], toward.shape)


def _constant_part(first, steps, runs):
    """What is left of a difference as the distance shrinks, 0.0 if nothing."""
    _, wide, near = steps
    finite = np.isfinite(wide) & np.isfinite(near)
    if not finite.any():
        return None
    wide, near = wide[finite], near[finite]
    sizes = [first.values, *(run.values[finite] for run in runs)]
    size = max(np.abs(s[np.isfinite(s)]).mean() for s in sizes if s.size)
    # The last tenth of the way tells what a slope still adds.
    jump = np.abs(10 * near - wide) / 9
    stays = np.abs(wide - near) <= _SPREAD * np.abs(near)
    stays &= np.abs(near) > _LEAST_JUMP * size
    return float(jump[stays].max()) if stays.any() else 0.0


# A switch may fail to be measured: the loss is NaN there, say.
_MOST_SWITCHES = 8
_MOST_MEASURED = 4
# A line in a loop runs often; its first runs speak for the others.
_MOST_RUNS_OF_A_LINE = 3
# How many ops all the runs may take; a loss of ten ops takes a second or two.
_MOST_OPS = 100_000


def holds_condition(graph):
    """Returns whether a loss in a traced step holds a user's condition.

    Or a step function.

    Args:
        graph: A `Graph`; bodies of functions and branches are entered.
    """
    in_loss = {}
    for context in Context(graph).everything():
        # A function may have been traced before the loss has called it.
        is_in_loss = in_loss[context] = context.parent is not None and (
            in_loss[context.parent]
            or _inside_loss(context.call.frames) is not None
        )
        for op in context.graph.ops:
            # To read the frames of an op takes longer than to ask for its type.
            if not (is_condition(op) or is_step_function(op)):
                continue
            inside = op.frames if is_in_loss else _inside_loss(op.frames)
            if inside and user_place(inside).line is not None:
                return True
    return False


def _inside_loss(frames):
    """The frames inside of the innermost loss, `None` outside of any."""
    for number in reversed(range(len(frames))):
        if is_loss_call(*frames[number]):
            return frames[number + 1 :]
    return None


def jump_findings(subject, name, with_python=True):
    """Finds the conditions at which a loss jumps, if it may be run often.

    Args:
        subject: The `LossRun`, or `None`.
        name: Name of the loss for the findings.
        with_python: Whether a Python `if` on numbers may choose as well:
            not where the loss is compiled.

    Returns:
        A list of `Finding`s; empty where nothing jumps, or where the values
        are not a function of the prediction alone.
    """
    # Nobody wants to read what it prints a hundred times.
    if subject is None or subject.has_prints:
        return []
    return jumps_of(subject, name, with_python)


def jumps_of(subject, name, with_python=True):
    """Finds the conditions at which a loss jumps.

    Args:
        subject: A `LossRun`.
        name: Name of the loss for the findings.
        with_python: See `jump_findings`.
    """
    conditions = _conditions(subject)
    if all(gradient is None for gradient in subject.gradients):
        return []
    if not any(np.any(g) for g in subject.gradients if g is not None):
        # That a step function leaves no gradient at all says more.
        conditions = {
            op: key for op, key in conditions.items() if is_condition(op)
        }
    has_python = with_python and bool(
        subject.run(subject.start, with_path=True).path
    )
    if not (conditions or has_python):
        return []
    ways = FlipSearch(subject, with_path=has_python)
    findings, points, asked = [], [], collections.Counter()
    for op, key in conditions.items():
        line = key[:2]
        if asked[line] == _MOST_RUNS_OF_A_LINE:
            continue
        asked[line] += 1
        found = _jump_at(subject, ways, key)
        if found is None:
            continue
        asked[line] = _MOST_RUNS_OF_A_LINE
        if _is_known(found.switch.point, points):
            continue
        points.append(found.switch.point)
        place = op_place(op)
        first, known = subject.base.bools.get(key), {}
        if first is not None and first.size > 1:
            known = {"true_share": float(np.mean(first))}
        finding = _finding(place, op.type, name, found.height, known)
        if first is None:
            finding = dataclasses.replace(finding, cause="step_function")
        chain = (op.type, *(user.type for user in op.outputs[0].consumers()))
        findings.append(dataclasses.replace(finding, chain=chain))
    return findings + (_python_jumps(ways, name) if has_python else [])


def _conditions(subject):
    """The conditions that may choose between formulas, with their keys.

    What a user has put behind `stop_gradient`, a hand-written gradient or a
    stopped tape is meant to have no gradient.
    """
    made = subject.graph.descendants(
        subject.tensors,
        lambda op: op.type != "StopGradient" and not subject.is_hidden(op),
    )
    is_open = {*subject.tensors, *made}
    return {
        op: key
        for op, key in subject.conditions.items()
        if op.type != "StopGradient"
        and not is_open.isdisjoint(op.inputs)
        and not subject.is_hidden(op)
        and not _is_stopped(subject, op)
    }


def _is_stopped(subject, condition):
    """Whether a condition leads to the value only behind `stop_gradient`."""
    reached = subject.graph.descendants(
        condition.outputs, lambda op: op.type != "StopGradient"
    )
    reached |= dict.fromkeys(condition.outputs)
    is_stopped = any(
        op.type == "StopGradient" for t in reached for op in t.consumers()
    )
    return is_stopped and subject.value not in reached


def _jump_at(subject, ways, key):
    """Returns the `Jump` that one condition makes, or `None`."""
    num_measured = 0
    start = subject.base.steps.get(key)

    def read(run):
        now = _asked(run, key)
        if start is None or now is None or now.shape != start.shape:
            return now
        return now != start

    switches = ways.switches(read)
    for switch in itertools.islice(switches, _MOST_SWITCHES):
        jump = measured_jump(ways, switch)
        if jump is None:
            continue
        if jump.height and depends_on_condition(subject, jump, key):
            return jump
        num_measured += 1
        num_ops = ways.num_runs * len(subject.graph.ops)
        if num_measured == _MOST_MEASURED or num_ops > _MOST_OPS:
            break
    return None


def _python_jumps(ways, name):
    """Jumps at a Python `if` on numbers that have left TensorFlow."""
    first = ways.first.path
    switches = ways.switches(lambda run: np.asarray(run.path != first))
    for switch in itertools.islice(switches, _MOST_MEASURED):
        jump = measured_jump(ways, switch)
        if jump is None or not jump.height:
            continue
        there, here = jump.runs
        if any(
            (here.bools[k] != v).any()
            for k, v in there.bools.items()
            if k in here.bools and here.bools[k].shape == v.shape
        ):
            continue
        pairs = zip(there.path, here.path, strict=False)
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
        *_, (last, _) = same
        code, _, line = last
        place = place_at(code.co_filename, line, code.co_name)
        return [_finding(place, None, name, jump.height, {})]
    return []


def _is_known(point, points):
    """Whether another condition flips at the same prediction."""
    return any(
        all(
            np.allclose(part, other, rtol=1e-6, atol=1e-6)
            for part, other in zip(point, known, strict=True)
        )
        for known in points
    )


def _finding(place, op, name, height, evidence):
    return Finding(
        kind="discontinuous",
        place=place,
        op=op,
        loss=name,
        cause="jump",
        evidence={"jump": height, **evidence},
    )
